"""YAML in, plain data out: the one reader of recipes, profiles and `--set` values, and the one writer.

Plain scalars follow the core schema of YAML 1.2: only `true` and `false` are booleans, `on`, `yes` and `n` are text, `1e-6` is a
number, `010` is ten, and `1_000`, `1:30` and dates are text. A key that is written twice in one mapping is refused; what a merge
key (`<<`) brings may be overridden. An alias is a copy, so that a change in one place is a change in no other.
"""

import math
import re
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pipeline.errors import Refusal

NODES = 100_000
"""As many values may stand in a document when its aliases are written out: a few lines of them can ask for billions."""

_TAG = "tag:yaml.org,2002:"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)
"""The plain scalars of the core schema: tag, expression, and the characters that they begin with."""


class _Unusable(Exception):
    """YAML that we do not take; the message says what to do."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}
    yaml_constructors = {f"{_TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{name}"] for name in ("null", "str", "seq", "map")} | {
        None: yaml.SafeLoader.yaml_constructors[None]
    }

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, ScalarNode)):
            name = self.number(key) if key.tag in _NUMBERS else key.value
            if name in lines:
                again = f"line {_line(key)} writes '{key.value}' again, after line {lines[name]} of the same mapping"
                raise _Unusable(f"{again}; keep one of them")
            lines[name] = _line(key)
        return node

    def truth(self, node: ScalarNode) -> bool:
        text = str(self.construct_scalar(node)).lower()
        if text not in ("true", "false"):
            raise _Unusable(f"line {_line(node)} holds {text[:40]}, which is neither true nor false; write one of them")
        return text == "true"

    def number(self, node: ScalarNode) -> int | float:
        """An integer in base 8, 10 or 16, or a finite decimal."""
        text = str(self.construct_scalar(node))
        try:
            if node.tag == f"{_TAG}int":
                return int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in ("0o", "0x") else int(text)
            if math.isfinite(value := float(text.replace(".inf", "inf").replace(".nan", "nan"))):
                return value
        except ValueError:
            pass  # too many digits, or `!!int words`
        raise _Unusable(f"line {_line(node)} holds {text[:40]}, which is no finite number; write one, or quote it")


_Loader.add_constructor(f"{_TAG}bool", _Loader.truth)
for _tag in _NUMBERS:
    _Loader.add_constructor(_tag, _Loader.number)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as something else than text."""


for _name, _expression, _first in _CORE:
    for _each in (_Loader, _Dumper):
        _each.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_expression})$"), _first)


def read(path: Path) -> dict[str, Any]:
    """The plain data of a YAML file. Raises Refusal if it is not YAML, or not a mapping."""
    try:
        body = parse(path.read_bytes().decode(), str(path), "is not YAML", "mend the file")
    except UnicodeDecodeError as error:
        raise Refusal(f"{path}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    if not isinstance(body, dict):
        holds = "is empty" if body is None else f"holds {type(body).__name__}, not a mapping"
        raise Refusal(f"{path}: {holds}; see {path.parent.name if path.parent.name == 'profiles' else 'recipes'}/ for examples")
    return cast(dict[str, Any], body)


def parse(text: str, where: str, slip: str, mend: str) -> Any:
    """The plain data of a YAML text. Raises Refusal: `<where>: <slip> (<line, column and problem>); <mend>`."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return _copied(loader.construct_document(node))
    except _Unusable as error:
        raise Refusal(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{where}: {slip} ({_problem(error)}); {mend}") from None
    except RecursionError:
        raise Refusal(f"{where}: {slip} (it is nested too deeply to be read); {mend}") from None
    finally:
        if loader is not None:
            loader.dispose()


def written(body: dict[str, Any], *, flow: bool | None = False, width: int = 80) -> str:
    """Plain data as the YAML that `parse` reads back; with `flow`, mappings and lists in braces and brackets."""
    return yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=width)


def _line(node: Node) -> int:
    return node.start_mark.line + 1


def _size(node: Node, known: dict[int, int]) -> int:
    """How many values stand below a node, aliases written out."""
    if id(node) not in known:
        known[id(node)] = 0  # until it is known: an alias within what it names finds this
        below: list[Node] = []
        if isinstance(node, MappingNode):
            below = [each for pair in node.value for each in pair]
        elif isinstance(node, SequenceNode):
            below = node.value
        known[id(node)] = 1 + sum(_size(each, known) for each in below)
        if known[id(node)] > NODES:
            raise _Unusable(f"line {_line(node)} holds more than {NODES:,} values once its aliases are written out; write less")
    elif not known[id(node)]:
        raise _Unusable(f"line {_line(node)} holds an alias of itself; write out what is meant")
    return known[id(node)]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in cast(dict[Any, Any], value).items()}
    return [_copied(each) for each in cast(list[Any], value)] if isinstance(value, list) else value


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())
