"""A recipe says what to do: a graph of nodes for the start, and one for every round. It alone bears identity.

It may say only what is different from another one (`extends`, see `patch`), and a value once (`values`, see `values`).
"""

import difflib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import document, values
from pipeline.errors import Problems, Refusal
from pipeline.patch import by_round, patched
from pipeline.plugin import explain, unknown

RECIPE = "recipe.yaml"
"""The recipe in a run's folder; what has none is no run."""
Node = dict[str, Any]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
"""Names a folder below the run, and nothing outside it."""


class Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Names the run's folder, unless another name is given."""
    seed: int = 0
    """All randomness derives from it."""
    rounds: int = Field(ge=0)
    """How many times `round` is unrolled."""
    values: dict[Name, Any] = {}
    """What is said once: `$name` reads it, wherever a value of a node may stand. `--set values.name=...` changes it."""
    start: dict[Name, Node]
    """Nodes that are built once. In round 1, `x@prev` means the start's `x`; in rounds 1 and 2, `x@prev2` does."""
    round: dict[Name, Node] = {}
    """Nodes that are built in every round, each naming its `stage`; one whose stage is null in a round is not there in it."""


def find(name: str, folder: str, beside: Path = Path()) -> Path:
    """The file of a recipe or profile, given as a path from the folder `beside` or as the name of one that is shipped in `folder`."""
    if name.endswith((".yaml", ".yml")):
        path = beside / name
        if path.is_file():
            return path
        near = difflib.get_close_matches(path.name, sorted(each.name for each in path.parent.glob("*.y*ml")), n=1)
        known = f"did you mean '{near[0]}'?" if near else f"give the path of a YAML file, or one of: {', '.join(shipped(folder))}"
        raise Refusal(f"{name}: there is no such file; {known}")
    path = _home(folder) / f"{name}.yaml"
    if name in shipped(folder):
        return path
    raise Refusal(f"{unknown(folder.removesuffix('s'), name, shipped(folder))} Or give the path of a YAML file.")


def shipped(folder: str) -> list[str]:
    """Names of the recipes (or profiles) that come with rematch."""
    return sorted(path.stem for path in _home(folder).glob("*.yaml"))


def _home(folder: str) -> Path:
    return Path(__file__).parent.parent / folder


def read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The plain data of a recipe's file, whole: over what it extends. `below` are the files that extend it.

    Raises Refusal if it is no YAML, or extends what is missing, no recipe, or itself.
    """
    body = document.read(path)
    if "extends" not in body:
        return body
    name = body.pop("extends")
    if not isinstance(name, str):
        raise Refusal(f"{path}: extends: takes the name of a shipped recipe or the path of a file, not {name!r}")
    try:
        base = find(name, "recipes", path.parent)
    except Refusal as error:
        raise Refusal(f"{path}: extends: {error}") from None
    files = (*below, path)
    if base.resolve() in [each.resolve() for each in files]:
        raise Refusal(f"{path}: extends: {' extends '.join(str(each) for each in (*files, base))}, a circle; let one of them stand alone")
    whole = read(base, files)
    try:
        make(whole, str(base))
    except Problems as error:
        raise Refusal(f"{path}: extends: {name} is no recipe ({error.problems[0]}); name one") from None
    return patched({field: value for field, value in whole.items() if field != "name"}, body)


def load(path: Path, changes: list[str] | None = None) -> Recipe:
    """The recipe in a YAML file, with `a.b=c` changes applied."""
    body = read(path)
    for change in changes or []:
        body = set_value(body, change)
    return make(body, str(path))


def make(body: dict[str, Any], where: str) -> Recipe:
    """Validate plain data as a recipe. Raises Problems that name every field at fault."""
    try:
        made = Recipe.model_validate(body)
    except ValidationError as error:
        raise Problems([f"{where}: {problem}" for problem in explain(error, Recipe)]) from None
    if found := list(values.problems(body)):
        raise Problems([f"{where}: {problem}" for problem in found])
    return made


def whole_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the YAML it could have been read from, with nothing left that it extends."""
    return recipe.model_dump(mode="json", exclude=None if recipe.values else {"values"})


def filled(recipe: Recipe) -> Recipe:
    """The recipe with every `$name` replaced by its value."""
    start = values.filled(recipe.start, recipe.values, in_rounds=False)
    return recipe.model_copy(update={"values": {}, "start": start, "round": values.filled(recipe.round, recipe.values, in_rounds=True)})


def set_value(body: dict[str, Any], change: str, from_round: int = 1) -> dict[str, Any]:
    """Apply one `a.b=c` change to a recipe's or profile's plain data; the value is YAML.

    `from_round` keeps what earlier rounds had: the value becomes `{by_round: [old, ..., new]}`. Of the recipe's `values` one that
    the change leaves without a reader goes with it.
    """
    path, equals, text = change.partition("=")
    if not equals:
        raise Refusal(f"--set {change}: has no '='; write it as --set round.policy.learning_rate=1.0e-6")
    before, body = body, deepcopy(body)
    *parents, leaf = path.split(".")
    at: Any = body
    for depth, name in enumerate(parents):
        if not isinstance(at, dict) or name not in at:
            known = [str(key) for key in cast(dict[str, Any], at)] if isinstance(at, dict) else []
            above = ".".join(parents[:depth]) or "the top"
            raise Refusal(f"--set {change}: {unknown(f'entry under {above}:', name, known)}")
        at = cast(Any, at[name])
    if not isinstance(at, dict):
        raise Refusal(f"--set {change}: {'.'.join(parents)} is {at!r}, which has no fields; set it as a whole")
    value = document.parse(text, f"--set {change}", "the value is not YAML", "quote it, or close what is open")
    if from_round > 1 and parents and parents[0] in ("round", "values"):
        try:
            value = {"by_round": [*(_at(cast(Any, at.get(leaf)), r) for r in range(1, from_round)), value]}
        except ValueError as error:
            raise Refusal(f"--set {change}: {error}") from None
    at[leaf] = value
    return values.without_readers(before, body)


def at_round(node: Any, round: int | None) -> Any:
    """A node's plain data as it stands in one round: every `{by_round: [a, b, c]}` resolved.

    The last value goes on; null leaves the field out, so that it has its default in that round.
    """
    if isinstance(node, dict):
        node = cast(dict[str, Any], node)
        if by_round(node):
            if round is None:
                raise ValueError("by_round stands in a node of the start, which has no rounds; write one value")
            return at_round(_at(node, round), round)
        resolved = {name: at_round(value, round) for name, value in node.items()}
        return {name: value for name, value in resolved.items() if value is not None or node[name] is None}
    return [at_round(value, round) for value in cast(list[Any], node)] if isinstance(node, list) else node


def _at(value: Any, round: int) -> Any:
    if by_round(value):
        choices = value["by_round"]
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"by_round holds {choices!r}; it takes a list with a value for each round")
        return choices[min(round, len(cast(list[Any], choices))) - 1]
    return value


def sections(recipe: Recipe) -> Iterator[tuple[str, int | None, dict[str, Node]]]:
    """The folders of a run in order, each with its round and its nodes as they are written."""
    yield "start", None, recipe.start
    for round in range(1, recipe.rounds + 1):
        yield f"round-{round:02d}", round, recipe.round
