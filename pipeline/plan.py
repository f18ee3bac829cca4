"""Unroll a recipe into steps, each with a key that is known before anything runs.

Everything that is wrong with a recipe is found here, and reported at once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from pipeline import plugin
from pipeline.artifact import hash_of
from pipeline.errors import Problems
from pipeline.patch import texts
from pipeline.placement import NOTHING, Need
from pipeline.plugin import Choice, Reads, Settings
from pipeline.profile import Profile
from pipeline.recipe import Node, Recipe, at_round, filled, sections


@dataclass(frozen=True)
class Step:
    """One node at one round."""

    address: str
    """`start/policy` or `round-02/pairs`; also its folder below the run."""
    node: str
    round: int | None
    """From 1; None in the start."""
    stage: str
    config: Settings
    inputs: dict[str, tuple[str, ...]]
    """Slot -> addresses of the steps that it reads."""
    identity: dict[str, Any]
    key: str
    seed: int | None
    """None: its stage draws nothing, and the recipe's seed is not in its key."""
    makes: str
    """A table's name, a kind of model (`pipeline.model.KINDS`) or `report`."""
    uses: frozenset[Need]
    """What it runs: `engine`, `forward`, `trainer`, or several of them at once."""
    keep: bool = True
    """False: its files are removed once all that read it is done. Not part of its identity."""

    @property
    def module(self) -> ModuleType:
        return plugin.load("stages", self.stage)

    @property
    def reads(self) -> tuple[str, ...]:
        """Every address that it reads, once."""
        return tuple(dict.fromkeys(address for addresses in self.inputs.values() for address in addresses))

    def folder(self, run: Path) -> Path:
        return run / self.address


def plan(recipe: Recipe, profile: Profile) -> list[Step]:
    """The steps of a recipe in an order in which they can be built. Raises Problems with all that is wrong."""
    recipe = filled(recipe)
    steps: dict[str, Step] = {}
    broken: set[str] = set()
    problems: dict[tuple[str, str], str] = {("profile", text): text for text in _overrides(recipe, profile)}
    if problems:
        profile = profile.model_copy(update={"overrides": {}})  # said already; the recipe is still looked at
    for folder, round, nodes in sections(recipe):
        for name, node in nodes.items():
            try:
                step = _step(recipe, profile, steps, broken, folder, round, name, node)
                steps[step.address] = step
            except _Absent:
                continue
            except _Follows:
                broken.add(f"{folder}/{name}")
            except ValueError as error:
                broken.add(f"{folder}/{name}")
                # The same slip shows in every round: once is enough.
                section = "start" if round is None else "round"
                for text in str(error).split("\n"):
                    problems.setdefault((f"{section}.{name}", text.replace(folder, section)), f"{folder}/{name}: {text}")
    if problems:
        raise Problems(list(problems.values()))
    return list(steps.values())


def _overrides(recipe: Recipe, profile: Profile) -> Iterator[str]:
    """What is wrong with the profile's overrides, given the recipe's nodes."""
    nodes = [*recipe.start, *recipe.round]
    for name in profile.overrides:
        where = f"profile {profile.name}, overrides"
        if name not in nodes:
            yield f"{where}: {plugin.unknown('node', name, nodes)}"
            continue
        try:
            profile.at(name)
        except ValidationError as error:
            yield from (f"{where}.{name}: {text}" for text in plugin.explain(error, Profile))


class _Absent(Exception):
    """A node whose stage is null in this round: it is not there, and a reference to it means the start's."""


class _Follows(Exception):
    """A node is fine but for a node that it reads; that one's problem is reported, and this one is not."""


def _step(
    recipe: Recipe, profile: Profile, steps: dict[str, Step], broken: set[str], folder: str, round: int | None, name: str, node: Node
) -> Step:
    body = cast(dict[str, Any], at_round(node, round))
    if "stage" not in body and "stage" in node:
        raise _Absent
    if "stage" not in body:
        raise ValueError(f"names no stage; write 'stage: ...', one of: {', '.join(plugin.names('stages'))}")
    stage = str(body.pop("stage"))
    module = plugin.load("stages", stage)
    found: list[str] = []
    keep = body.pop("keep", True)
    if not isinstance(keep, bool):
        found.append(f"keep: is {keep!r}; write true, or false to have its files removed once all that reads it is done")
    config: Settings | None = None
    try:
        config = module.Config.model_validate(body)
    except ValidationError as error:
        found += plugin.explain(error, module.Config)
    inputs: dict[str, tuple[str, ...]] = {}
    written = references(config) if config is not None else _raw_references(module.Config, body)
    follows = False
    narrowed: dict[str, Reads] = module.reads(config) if config is not None and hasattr(module, "reads") else {}
    for slot, marker, names in written:
        marker = narrowed.get(slot, marker)
        try:
            inputs[slot] = tuple(a for ref in names for a in _resolve(ref, marker, recipe, steps, broken, folder, round, name))
        except ValueError as error:
            found.append(f"{slot}: {error}")
        except _Follows:
            follows = True
    if config is not None and not found and not follows and hasattr(module, "check"):
        found += module.check(config, {slot: tuple(steps[a] for a in addresses) for slot, addresses in inputs.items()})
    if found or config is None:
        raise ValueError("\n".join(found))
    if follows:
        raise _Follows
    uses: frozenset[Need] = module.uses(config) if hasattr(module, "uses") else NOTHING
    identity: dict[str, Any] = {
        "stage": stage,
        "version": module.VERSION,
        "settings": plugin.settings(config),
        "round": round,
        "node": name,
        # Without those that read nothing, so that a new optional reference orphans no run either.
        "inputs": {slot: [steps[a].key for a in addresses] for slot, addresses in inputs.items() if addresses},
    }
    seeded: bool = getattr(module, "SEEDED", True)
    if seeded:
        identity["seed"] = recipe.seed
    if "engine" in uses and profile.at(name).engine.module.SCRIPTED:
        identity["scripted"] = True  # so that scripted output never passes as a model's
    return Step(
        address=f"{folder}/{name}",
        node=name,
        round=round,
        stage=stage,
        config=config,
        inputs=inputs,
        identity=identity,
        key=hash_of(identity),
        seed=int(hash_of([recipe.seed, folder, name])[:15], 16) if seeded else None,
        makes=module.makes(config) if hasattr(module, "makes") else module.MAKES,
        uses=uses,
        keep=bool(keep),
    )


def references(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Reads, tuple[str, ...]]]:
    """Every slot of a config and of the plugins that it chose, with its marker and the names written there."""
    for name, marker, names in plugin.references(config):
        yield f"{prefix}{name}", marker, names
    for name in type(config).model_fields:
        value: Any = getattr(config, name)
        if isinstance(value, Choice):
            yield from references(value.config, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            for index, each in enumerate(cast(tuple[Any, ...], value)):
                if isinstance(each, Choice):
                    yield from references(each.config, f"{prefix}{name}.{index}.")


def _raw_references(config: type[Settings], body: dict[str, Any]) -> Iterator[tuple[str, Reads, tuple[str, ...]]]:
    """The references of a node that does not validate, so that wrong ones are reported along with the rest."""
    for name, info in config.model_fields.items():
        for marker in info.metadata:
            if isinstance(marker, Reads) and (value := body.get(name)):
                names = cast(list[Any], [value] if isinstance(value, str) else value if isinstance(value, list) else [])
                yield name, marker, tuple(str(each) for each in names)


def _resolve(
    ref: str, marker: Reads, recipe: Recipe, steps: dict[str, Step], broken: set[str], folder: str, round: int | None, reader: str
) -> list[str]:
    """The addresses that a reference names: `x` (this round, else start), `x@prev`, `x@prev2`, `x@start`, `x@all` (earlier rounds)."""
    name, at, when = ref.partition("@")
    nodes = {**recipe.start, **recipe.round} if round else recipe.start
    if name not in nodes:
        if round is None and name in recipe.round:
            raise ValueError(f"'{ref}' is a node of the rounds, which the start cannot read; read it in a round, or move it to the start")
        raise ValueError(plugin.unknown("node", name, list(nodes)))
    ago = _rounds_ago(when)
    if at and not ago and when not in ("start", "all"):
        raise ValueError(f"'{ref}': {plugin.unknown('time', when, ['prev', 'prev2', 'start', 'all'])}")
    if when == "all":
        places = [f"round-{r:02d}" for r in range(1, round or 1)]
    elif ago:
        places = [_earlier(round, ago)]
    else:
        places = ["start"] if when == "start" else [folder, "start"]
    for place in places:
        if f"{place}/{name}" in broken:
            raise _Follows
        if f"{place}/{name}" in steps and when != "all":
            break
    found = [f"{place}/{name}" for place in places if f"{place}/{name}" in steps]
    if when != "all":
        found = found[:1]
        if not found:
            raise ValueError(_nothing(ref, name, when, recipe, folder, round, reader))
    for address in found:
        makes = steps[address].makes
        if marker.kinds and makes not in marker.kinds:
            way_out = _called_so(steps[address], marker) + "name another node"
            raise ValueError(f"'{ref}' makes {makes}, but {' or '.join(marker.kinds)} is read here; {way_out}")
    return found


def _called_so(step: Step, marker: Reads) -> str:
    """The way out where `as` says what kind of model a node makes, and could say a kind that is read."""
    known: tuple[Any, ...] = get_args(field.annotation) if (field := plugin.fields(type(step.config)).get("as")) else ()
    fitting = [f"`as: {kind}`" for kind in marker.kinds if kind in known and step.makes in known]
    where = "start" if step.round is None else "round"
    return f"write {' or '.join(fitting)} in {where}.{step.node} if it is one, or " if fitting else ""


def _rounds_ago(when: str) -> int:
    """1 for `prev`, 3 for `prev3`; 0 for anything else."""
    found = re.fullmatch(r"prev([1-9][0-9]*)?", when)
    return int(found[1] or 1) if found else 0


def _earlier(round: int | None, ago: int) -> str:
    """The folder of so many rounds ago; before round 1 is the start."""
    return f"round-{round - ago:02d}" if round and round > ago else "start"


def _nothing(ref: str, name: str, when: str, recipe: Recipe, folder: str, round: int | None, reader: str) -> str:
    section = recipe.start if round is None else recipe.round
    ago = _rounds_ago(when)
    there = _earlier(round, ago) if ago else folder
    if name in section and name != reader and when != "start" and _is_absent(section[name], there):
        return f"'{ref}' has no stage in {there}, so it is not there; let {reader} read something else in that round ({{by_round: ...}})"
    if ago and there != "start" and name in recipe.start:
        return (
            f"'{ref}' is the '{name}' of {'the round before' if ago == 1 else f'{ago} rounds before'}, and the round makes none; "
            f"read '{name}@start', or add a node '{name}' to the round"
        )
    if ago or when == "start":
        return f"'{ref}' is start/{name} here, and the start has no usable node '{name}'; add one, or read '{name}'"
    if name == reader:
        last = "read another node" if round is None else f"write '{ref}@prev' for the one of the round before"
        return f"'{ref}' is this very node; {last}"
    order = list(section)
    if name in section and order.index(name) > order.index(reader):
        if _reaches(section, name, reader):
            last = "let one of them read another node" if round is None else f"write '{ref}@prev' in one of them"
            return f"'{ref}' closes a cycle: {name} reads {reader}; {last}"
        last = "" if round is None else f", or write '{ref}@prev'"
        return f"'{ref}' comes later in the recipe; move it above {reader}{last}"
    return f"'{ref}' is a node of neither this round nor the start; name another"


def _is_absent(node: Node, folder: str) -> bool:
    """Whether a node has a stage in other rounds and none in this one."""
    number = folder.removeprefix("round-")
    return number.isdigit() and "stage" in node and "stage" not in cast(dict[str, Any], at_round(node, int(number)))


def _reaches(section: dict[str, Node], start: str, goal: str) -> bool:
    """Whether node `start` reads node `goal`, directly or through others of the same round."""
    seen: set[str] = set()
    stack = [start]
    while stack:
        at = stack.pop()
        if at == goal:
            return True
        if at not in seen and at in section:
            seen.add(at)
            stack += [text for text in texts(section[at]) if text in section]
    return False


def dependents(steps: list[Step], roots: set[str]) -> list[str]:
    """The addresses of `roots` and of everything that reads them, in plan order."""
    reached: set[str] = set()
    for step in steps:
        if step.address in roots or reached.intersection(step.reads):
            reached.add(step.address)
    return [step.address for step in steps if step.address in reached]


def estimate(steps: list[Step], done_rows: dict[str, int]) -> dict[str, dict[str, int | None]]:
    """Rows and tokens that each step is expected to make; None where nobody can tell before running.

    `done_rows` holds the true row counts of artifacts that exist.
    """
    expected: dict[str, dict[str, int | None]] = {}
    for step in steps:
        rows = {slot: expected[addresses[0]].get("rows") if addresses else None for slot, addresses in step.inputs.items()}
        guess = step.module.estimate(step.config, rows, step.round) if hasattr(step.module, "estimate") else {}
        if step.address in done_rows:
            guess = {**guess, "rows": done_rows[step.address]}
        expected[step.address] = guess
    return expected
