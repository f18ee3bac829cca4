"""What a command line asks for: which recipe, which profile, which run folder, which address in it.

Knows nothing of terminals. Everything that a user can misspell here is a Refusal with the near miss.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline import profile as profiles
from pipeline import recipe as recipes
from pipeline import run, sweep
from pipeline.errors import Refusal
from pipeline.plugin import unknown
from pipeline.profile import Profile
from pipeline.recipe import RECIPE, Recipe
from pipeline.run import PROFILE
from pipeline.sweep import Point

RUNS = Path("runs")
"""Where runs are, unless --runs says otherwise."""


@dataclass(frozen=True)
class Asked:
    """A recipe, a profile and the run folder that they are for."""

    recipe: Recipe
    profile: Profile
    folder: Path
    command: str
    """What builds it."""


def asked(recipe: str, *, profile: str | None, changes: list[str], rounds: int | None, name: str | None, runs: Path | None) -> Asked:
    """Read what `rematch run RECIPE` and `rematch plan RECIPE` were given.

    `recipe` is a shipped name, a YAML path, or a run folder, whose recorded recipe and profile then count.
    """
    source, recorded = source_of(recipe)
    for_profile = [change.removeprefix("profile.") for change in changes if change.startswith("profile.")]
    for_recipe = [change for change in changes if not change.startswith("profile.")]
    if rounds is not None:
        for_recipe.append(f"rounds={rounds}")
    body = recipes.read(source)
    for change in for_recipe:
        body = recipes.set_value(body, change)
    made = recipes.make(body, str(source))
    origin = Path(recipe)
    folder = (runs or (origin.parent if recorded else RUNS)) / (name or (origin.name if recorded else made.name))
    given = (("--profile", profile), ("--rounds", rounds), ("--run", name), ("--runs", runs), *(("--set", change) for change in changes))
    words = [word for option, value in given if value is not None for word in (option, str(value))]
    where = profiles.load(_place(profile, recorded), for_profile)
    return Asked(made, where, folder, shlex.join(["rematch", "run", recipe, *words]))


def source_of(recipe: str) -> tuple[Path, Path | None]:
    """The file of a recipe, and of the profile that was recorded beside it if it is a run's."""
    origin = Path(recipe)
    if (origin / RECIPE).is_file():
        return origin / RECIPE, origin / PROFILE
    if origin.is_dir():
        raise Refusal(f"{recipe}: is a folder without a {RECIPE}, so it is not a run; {_runs_in(origin)}")
    return recipes.find(recipe, "recipes"), None


def _place(profile: str | None, recorded: Path | None) -> Path:
    return recorded if recorded is not None and profile is None else recipes.find(profile or "laptop", "profiles")


def swept(
    recipe: str, *, profile: str | None, changes: list[str], seeds: str | None, rounds: int | None, runs: Path | None, name: str | None
) -> tuple[Path, list[tuple[Point, Asked]]]:
    """Read what `rematch sweep RECIPE` was given: the folder of its runs, and each of them. Nothing is made."""
    source, recorded = source_of(recipe)
    for_profile = [change.removeprefix("profile.") for change in changes if change.startswith("profile.")]
    for change in for_profile:
        if len(sweep.axis(change).values) > 1:
            raise Refusal(f"--set profile.{change}: is the profile's, which never changes what comes out; a sweep changes the recipe")
    axes = [sweep.axis(change) for change in changes if not change.startswith("profile.")]
    axes += [sweep.seeds(seeds)] if seeds is not None else []
    where = profiles.load(_place(profile, recorded), for_profile)
    body = recipes.read(source)
    if rounds is not None:
        body = recipes.set_value(body, f"rounds={rounds}")
    name = name or f"{recipes.make(body, str(source)).name}-sweep"
    sweep.check_name(name)
    folder = (runs or RUNS) / name
    found = sweep.points(body, axes, where, str(source))
    return folder, [
        (point, Asked(point.recipe, where, folder / point.name, shlex.join(["rematch", "run", str(folder / point.name)])))
        for point in found
    ]


def recorded(folder: Path, profile: str | None = None) -> Asked:
    """A run as it was last started, or under another profile."""
    made, where = run.recorded(folder, None if profile is None else recipes.find(profile, "profiles"))
    return Asked(made, where, folder, shlex.join(["rematch", "run", str(folder)]))


def find_run(text: str) -> Path:
    """The run folder that `text` names: a path, or the name of a run in ./runs."""
    folder, address = locate(text)
    if address:
        raise Refusal(f"{text}: names '{address}' inside the run {folder}; name the run alone here")
    return folder


def locate(text: str) -> tuple[Path, str]:
    """Split `runs/demo/round-02/pairs` into the run's folder and the address in it (empty for the run itself)."""
    for path in (Path(text), RUNS / text):
        for folder in (path, *path.parents):
            if (folder / RECIPE).is_file():
                return folder, path.relative_to(folder).as_posix().removeprefix(".")
    raise Refusal(f"{text}: is not a run; {_runs_in(RUNS)}")


def _runs_in(folder: Path) -> str:
    names = sorted(path.parent.as_posix() for path in folder.glob(f"*/{RECIPE}"))
    return f"runs here: {', '.join(names)}" if names else f"there are none in {folder}/ yet, and `rematch run demo` makes one"


def section_of(address: str, recipe: Recipe) -> tuple[str, str]:
    """The round folder and the node (empty for a whole round) that an address names. `2` and `round-2` mean `round-02`."""
    folder, _, node = address.strip("/").partition("/")
    number = folder.removeprefix("round-")
    if number.isdigit():
        folder = f"round-{int(number):02d}"
    known = [name for name, _, _ in recipes.sections(recipe)]
    if folder not in known:
        raise Refusal(f"{address}: {unknown('round', folder, known)}")
    nodes = list(recipe.start if folder == "start" else recipe.round)
    if node and node not in nodes:
        raise Refusal(f"{address}: {unknown('node', node, nodes)}")
    return folder, node


def plain(value: Any) -> dict[str, Any]:
    """A mapping, whatever was found where one is expected."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
