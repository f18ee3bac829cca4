"""Several runs of one recipe that differ in a few settings: their product, each a run beside the others, so that they share.

`round.policy.objective.beta=0.05,0.1` is an axis of two values. All that is wrong with any of the runs is found before
the first begins.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import yaml

from pipeline import recipe as recipes
from pipeline.artifact import hash_of
from pipeline.errors import Problems, Refusal
from pipeline.plan import plan
from pipeline.profile import Profile
from pipeline.recipe import Recipe

_PLAIN = re.compile(r"[a-z0-9]+(\.[0-9]+)?(e-?[0-9]+)?")
"""Values that a name can hold as they are, but for the dot."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Axis:
    """A setting, and the values that it takes."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    settings: dict[str, Any]
    """What it differs in: path -> value."""
    recipe: Recipe


def axis(change: str) -> Axis:
    """The axis that `a.b=x,y` names. Commas in brackets, braces or quotes part no values: `[1, 2],[3]` and `'a,b',c` are two each."""
    path, equals, text = change.partition("=")
    if not equals:
        raise Refusal(f"--set {change}: has no '='; write it as --set round.policy.learning_rate=1.0e-6,2.0e-6")
    try:
        values = cast(list[Any], yaml.safe_load(f"[{text}]"))
    except yaml.YAMLError:
        raise Refusal(
            f"--set {change}: is no list of values; part them by single commas, and quote a value that holds one: {path}='a,b',c"
        ) from None
    return distinct(Axis(path, tuple(values)), f"--set {change}")


def seeds(text: str) -> Axis:
    """The axis that `--seeds 0,1,2` names."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]+", part) for part in parts):
        raise Refusal(f"--seeds {text}: takes whole numbers with commas between them; write --seeds 0,1,2")
    return distinct(Axis("seed", tuple(int(part) for part in parts)), f"--seeds {text}")


def distinct(made: Axis, where: str) -> Axis:
    """The axis; Refusal if it has a value twice, or none."""
    if not made.values:
        raise Refusal(f"{where}: names no value; give it two or more")
    for at, value in enumerate(made.values):
        if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in made.values[:at]):
            raise Refusal(f"{where}: has the value {spelled(value)} twice; keep one of them")
    return made


def spelled(value: Any) -> str:
    """A value as it is written on one line of YAML, between commas."""
    return yaml.safe_dump([value], default_flow_style=True, width=1 << 30, allow_unicode=True).strip()[1:-1]


def points(body: dict[str, Any], axes: Sequence[Axis], profile: Profile, where: str) -> list[Point]:
    """The runs of a sweep over `axes`: the last one changes fastest; an axis of one value holds for all.

    Each is planned, so that none is refused later. Raises Refusal, or Problems, with what is wrong.
    """
    paths = [each.path for each in axes]
    for path in paths:
        if paths.count(path) > 1:
            raise Refusal(f"{path}: is swept twice; put all its values into one list")
    swept = [each for each in axes if len(each.values) > 1]
    if not swept:
        raise Refusal("sweep: nothing has more than one value; give one a list, such as --seeds 0,1, or use `rematch run`")
    made: list[Point] = []
    known: dict[str, Point] = {}
    for values in product(*(each.values for each in axes)):
        changed = body
        for path, value in zip(paths, values, strict=True):
            changed = recipes.set_value(changed, f"{path}={spelled(value)}")
        settings = {path: value for path, value in zip(paths, values, strict=True) if path in {each.path for each in swept}}
        point = Point(_name(settings), settings, recipes.make(changed, where))
        try:
            keys = hash_of([step.key for step in plan(point.recipe, profile)])
        except Problems as error:
            raise Problems([f"{point.name}: {problem}" for problem in error.problems]) from None
        if keys in known:
            raise Refusal(f"{known[keys].name} and {point.name}: would be the same steps; sweep a setting that changes what is made")
        known[keys] = point
        made.append(point)
    return made


def _name(settings: dict[str, Any]) -> str:
    """A run's name that tells its settings: `beta-0-05-seed-1`. Where a value cannot be told, a hash stands for it."""
    leaves = [path.rpartition(".")[2] for path in settings]
    parts: list[str] = []
    for path, value in settings.items():
        leaf = path.rpartition(".")[2]
        parts += [path if leaves.count(leaf) > 1 else leaf, _told(value)]
    return _clean("-".join(parts))


def _told(value: Any) -> str:
    text = spelled(value)
    if _PLAIN.fullmatch(text) and len(text) <= 24:
        return text
    return f"{_clean(text)[:24].strip('-')}-{hash_of(text)[:6]}".lstrip("-")


def _clean(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def check_name(name: str) -> None:
    """Refusal if a sweep's folder cannot be called so."""
    if not _NAME.fullmatch(name):
        raise Refusal(f"--name {name}: is no name of a folder of runs; use small letters, digits and hyphens")
