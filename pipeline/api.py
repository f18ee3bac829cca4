"""The Python API: what the commands do, for programs and notebooks. `import pipeline` offers all of it; docs/python.md has examples.

A recipe is a shipped name, a YAML path, a run's folder, plain data or a Recipe; a profile a shipped name, a YAML path, plain
data or a Profile. Everything that the user can mend raises Refusal. Nothing is printed.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import artifact, request, rows, sweep
from pipeline import events as event_log
from pipeline import plan as planner
from pipeline import profile as profiles
from pipeline import recipe as recipes
from pipeline import run as runner
from pipeline.artifact import Artifact
from pipeline.build import Context
from pipeline.errors import Refusal
from pipeline.plan import Step
from pipeline.profile import Profile
from pipeline.recipe import RECIPE, Recipe
from pipeline.run import PROFILE, Status

AnyRecipe = str | Path | Mapping[str, Any] | Recipe
AnyProfile = str | Path | Mapping[str, Any] | Profile


@dataclass(frozen=True)
class Outcome:
    """What became of one run of a sweep."""

    folder: Path
    settings: dict[str, Any]
    """What it differs in: path -> value."""
    built: tuple[str, ...]
    error: Refusal | None
    """Why it is not whole; None if it is."""


def load_recipe(recipe: AnyRecipe, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe, with `{"round.policy.objective.beta": 0.2}` changed in it."""
    body, where = _body(recipe)
    for path, value in (changes or {}).items():
        body = recipes.set_value(body, f"{path}={sweep.spelled(value)}")
    return recipes.make(body, where)


def _body(recipe: AnyRecipe) -> tuple[dict[str, Any], str]:
    if isinstance(recipe, Recipe):
        return recipe.model_dump(mode="json"), recipe.name
    if isinstance(recipe, Mapping):
        return deepcopy(dict(recipe)), "recipe"
    path, _ = request.source_of(str(recipe))
    return recipes.read(path), str(path)


def load_profile(profile: AnyProfile, changes: Mapping[str, Any] | None = None) -> Profile:
    """A profile, with `{"trainer.tokens_per_device": 4096}` changed in it."""
    texts = [f"{path}={sweep.spelled(value)}" for path, value in (changes or {}).items()]
    if isinstance(profile, Profile):
        return profiles.make(profiles.plain(profile), profile.name, texts) if texts else profile
    if isinstance(profile, Mapping):
        return profiles.make(deepcopy(dict(profile)), "profile", texts)
    return profiles.load(recipes.find(str(profile), "profiles"), texts)


def _asked(
    recipe: AnyRecipe, profile: AnyProfile | None, folder: str | Path | None, changes: Mapping[str, Any] | None, rounds: int | None
) -> tuple[Recipe, Profile, Path]:
    """What is to be run, where and in which folder: those of the run, if `recipe` is one, where they are not given."""
    made = load_recipe(recipe, {**(changes or {}), **({} if rounds is None else {"rounds": rounds})})
    origin = Path(recipe) if isinstance(recipe, str | Path) and (Path(recipe) / RECIPE).is_file() else None
    where = profiles.load(origin / PROFILE) if origin and profile is None else load_profile(profile or "laptop")
    return made, where, Path(folder) if folder is not None else origin or request.RUNS / made.name


def plan_recipe(
    recipe: AnyRecipe, *, profile: AnyProfile | None = None, changes: Mapping[str, Any] | None = None, rounds: int | None = None
) -> list[Step]:
    """The steps of a recipe, in an order in which they can be built. Runs nothing."""
    made, where, _ = _asked(recipe, profile, None, changes, rounds)
    return planner.plan(made, where)


def run_recipe(
    recipe: AnyRecipe,
    *,
    profile: AnyProfile | None = None,
    folder: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    rounds: int | None = None,
    start_at: str | None = None,
    context: Context | None = None,
) -> list[str]:
    """Build what is missing of a recipe in `folder` (default: runs/NAME), and return the addresses that were built.

    `start_at` (`round-02` or `round-02/pairs`) is built again, with all that reads it. `context` has callbacks for progress.
    """
    made, where, place = _asked(recipe, profile, folder, changes, rounds)
    return runner.run(made, where, place, start_at=start_at, context=context)


def build_step(folder: str | Path, address: str, *, profile: AnyProfile | None = None) -> Artifact:
    """Build one step of a run, whose inputs are done, and return it; one that is there is returned as it is."""
    asked = request.recorded(Path(folder))
    where = asked.profile if profile is None else load_profile(profile)
    runner.build_step(asked.recipe, where, asked.folder, address)
    return open_artifact(folder, address)


def sweep_recipe(
    recipe: AnyRecipe,
    values: Mapping[str, Sequence[Any]],
    *,
    folder: str | Path,
    profile: AnyProfile | None = None,
    changes: Mapping[str, Any] | None = None,
    rounds: int | None = None,
) -> list[Outcome]:
    """Run a recipe with every combination of `values` (path -> list), each in a folder of its own below `folder`.

    A run that fails does not keep the others from theirs: its Outcome has the error.
    """
    made, where, _ = _asked(recipe, profile, None, changes, rounds)
    axes = [sweep.distinct(sweep.Axis(path, tuple(some)), path) for path, some in values.items()]
    outcomes: list[Outcome] = []
    for point in sweep.points(made.model_dump(mode="json"), axes, where, made.name):
        place = Path(folder) / point.name
        built: list[str] = []

        def finished(done: Artifact, address: str, built: list[str] = built) -> None:
            if done.linked_from is None:
                built.append(address)

        error = None
        try:
            runner.run(point.recipe, where, place, context=Context(run=place, profile=where, finished=finished))
        except Refusal as refusal:
            error = refusal
        outcomes.append(Outcome(place, point.settings, tuple(built), error))
    return outcomes


def fork_run(folder: str | Path, new: str | Path, *, at: int, changes: Mapping[str, Any]) -> list[str]:
    """A new run in `new`, with `changes` from round `at` on; returns the addresses that it shares with `folder`."""
    texts = [f"{path}={sweep.spelled(value)}" for path, value in changes.items()]
    return runner.fork(Path(folder), Path(new), at=at, changes=texts)[1]


def status(folder: str | Path, *, verify: bool = False) -> dict[str, Status]:
    """The state of every step of a run, by address. `verify` hashes every file again."""
    asked = request.recorded(Path(folder))
    return runner.status(planner.plan(asked.recipe, asked.profile), asked.folder, verify=verify)


def open_artifact(folder: str | Path, address: str) -> Artifact:
    """What a step left: its folder and its manifest."""
    asked = request.recorded(Path(folder))
    section, node = request.section_of(address, asked.recipe)
    made = artifact.read(asked.folder / section / node) if node else None
    if made is None:
        raise Refusal(f"{address}: {'is missing' if node else 'is a whole round'}; `rematch status {folder}` says what is there")
    return made


def read(folder: str | Path, address: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a table, such as `round-02/pairs`."""
    made = open_artifact(folder, address)
    if made.manifest.dropped or not rows.files(made.path):
        raise Refusal(f"{address}: {'its files were dropped' if made.manifest.dropped else 'is no table'}; read another step")
    return rows.read(made.path, None if columns is None else list(columns))


def facts(folder: str | Path, address: str) -> dict[str, Any]:
    """What a step reported: counts, rates, losses."""
    return open_artifact(folder, address).manifest.facts


def read_events(folder: str | Path) -> Iterator[dict[str, Any]]:
    """What happened in a run, in order (docs/events.md)."""
    return event_log.read(request.recorded(Path(folder)).folder)
