"""A recipe says what to do: a graph of nodes for the start, and one for every round. It alone bears identity."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import Problems, Refusal
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
    start: dict[Name, Node]
    """Nodes that are built once. In round 1, `x@prev` means the start's `x`; in rounds 1 and 2, `x@prev2` does."""
    round: dict[Name, Node] = {}
    """Nodes that are built in every round, each naming its `stage`; one whose stage is null in a round is not there in it."""


def find(name: str, folder: str, suffix: str = ".yaml") -> Path:
    """The file of a recipe or profile, given as a path or as the name of one that is shipped in `folder`."""
    if name.endswith((suffix, ".yml")):
        path = Path(name)
        if path.is_file():
            return path
        raise Refusal(f"{name}: there is no such file; give the path of a YAML file, or one of: {', '.join(shipped(folder))}")
    path = _home(folder) / f"{name}{suffix}"
    if path.is_file():
        return path
    raise Refusal(f"{unknown(folder.removesuffix('s'), name, shipped(folder))} Or give the path of a YAML file.")


def shipped(folder: str) -> list[str]:
    """Names of the recipes (or profiles) that come with rematch."""
    return sorted(path.stem for path in _home(folder).glob("*.yaml"))


def _home(folder: str) -> Path:
    return Path(__file__).parent.parent / folder


def read(path: Path) -> dict[str, Any]:
    """The plain data of a YAML file. Raises Refusal if it is not YAML, or not a mapping."""
    try:
        body = yaml.safe_load(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise Refusal(f"{path}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{path}: is not YAML ({_yaml_problem(error)}); mend the file") from None
    if not isinstance(body, dict):
        holds = "is empty" if body is None else f"holds {type(body).__name__}, not a mapping"
        raise Refusal(f"{path}: {holds}; see recipes/ for examples")
    return cast(dict[str, Any], body)


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def load(path: Path, changes: list[str] | None = None) -> Recipe:
    """The recipe in a YAML file, with `a.b=c` changes applied."""
    body = read(path)
    for change in changes or []:
        body = set_value(body, change)
    return make(body, str(path))


def make(body: dict[str, Any], where: str) -> Recipe:
    """Validate plain data as a recipe. Raises Problems that name every field at fault."""
    try:
        return Recipe.model_validate(body)
    except ValidationError as error:
        raise Problems([f"{where}: {problem}" for problem in explain(error, Recipe)]) from None


def set_value(body: dict[str, Any], change: str, from_round: int = 1) -> dict[str, Any]:
    """Apply one `a.b=c` change to a recipe's or profile's plain data; the value is YAML.

    `from_round` keeps what earlier rounds had: the value becomes `{by_round: [old, ..., new]}`.
    """
    path, equals, text = change.partition("=")
    if not equals:
        raise Refusal(f"--set {change}: has no '='; write it as --set round.policy.learning_rate=1.0e-6")
    body = deepcopy(body)
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
    try:
        value = yaml.safe_load(text)
        if from_round > 1 and parents and parents[0] == "round":
            value = {"by_round": [*(_at(cast(Any, at.get(leaf)), r) for r in range(1, from_round)), value]}
    except yaml.YAMLError as error:
        raise Refusal(f"--set {change}: the value is not YAML ({_yaml_problem(error)}); quote it, or close what is open") from None
    except ValueError as error:
        raise Refusal(f"--set {change}: {error}") from None
    at[leaf] = value
    return body


def at_round(node: Any, round: int | None) -> Any:
    """A node's plain data as it stands in one round: every `{by_round: [a, b, c]}` resolved.

    The last value goes on; null leaves the field out, so that it has its default in that round.
    """
    if isinstance(node, dict):
        node = cast(dict[str, Any], node)
        if set(node) == {"by_round"}:
            if round is None:
                raise ValueError("by_round stands in a node of the start, which has no rounds; write one value")
            return _at(node, round)
        resolved = {name: at_round(value, round) for name, value in node.items()}
        return {name: value for name, value in resolved.items() if value is not None or node[name] is None}
    return [at_round(value, round) for value in cast(list[Any], node)] if isinstance(node, list) else node


def _at(value: Any, round: int) -> Any:
    if isinstance(value, dict) and set(cast(dict[str, Any], value)) == {"by_round"}:
        choices = cast(Any, value["by_round"])
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"by_round holds {choices!r}; it takes a list with a value for each round")
        return choices[min(round, len(cast(list[Any], choices))) - 1]
    return value


def sections(recipe: Recipe) -> Iterator[tuple[str, int | None, dict[str, Node]]]:
    """The folders of a run in order, each with its round and its nodes."""
    yield "start", None, recipe.start
    for round in range(1, recipe.rounds + 1):
        yield f"round-{round:02d}", round, recipe.round
