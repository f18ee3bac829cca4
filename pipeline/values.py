"""Values that a recipe says once, under `values`, and reads as `$name` wherever a value of a node may stand."""

import re
from collections.abc import Iterator
from typing import Any, cast

from pipeline.patch import by_round, texts
from pipeline.plugin import unknown

Body = dict[str, Any]
_NAME = re.compile(r"\$([A-Za-z][A-Za-z0-9_-]*)")


def filled(nodes: Any, values: Body, *, in_rounds: bool) -> Any:
    """Plain data with every `$name` replaced by its value; `$$name` is the text `$name`.

    In the start, which has no rounds, a value that is written `{by_round: ...}` is its first.
    """
    if isinstance(nodes, dict):
        return {name: filled(value, values, in_rounds=in_rounds) for name, value in cast(Body, nodes).items()}
    if isinstance(nodes, list):
        return [filled(value, values, in_rounds=in_rounds) for value in cast(list[Any], nodes)]
    if not isinstance(nodes, str):
        return nodes
    name = _NAME.fullmatch(nodes)
    if name:
        value = values[name[1]]
        return value["by_round"][0] if by_round(value) and not in_rounds else value
    return nodes[1:] if _NAME.fullmatch(nodes[1:]) and nodes.startswith("$$") else nodes


def problems(body: Body) -> Iterator[str]:
    """What is wrong with a recipe's values and the names that read them."""
    values = body.get("values", {})
    values = cast(Body, values) if isinstance(values, dict) else {}
    nodes = [(f"{section}.{name}", node) for section in ("start", "round") for name, node in _entries(body.get(section))]
    for where, node in nodes:
        for name in _read(node):
            if name not in values:
                yield f"{where}: '${name}' names no value; {unknown('value', name, list(values)).partition('; ')[2]}"
    used = {name for _, node in nodes for name in _read(node)}
    for name, value in values.items():
        if nested := next(_read(value), None):
            yield f"values.{name}: reads '${nested}', and a value cannot read another; write it out"
        if by_round(value) and not (isinstance(value["by_round"], list) and value["by_round"]):
            yield f"values.{name}: by_round holds {value['by_round']!r}; it takes a list with a value for each round"
        if name not in used:
            yield f"values.{name}: no node reads '${name}'; write '${name}' where it is meant, or leave the value out"


def without_readers(before: Body, after: Body) -> Body:
    """`after`, without the values that a node of `before` read and none of `after` does."""
    were, are = ({name for section in ("start", "round") for name in _read(body.get(section))} for body in (before, after))
    values = after.get("values")
    if not isinstance(values, dict) or not were - are:
        return after
    return {**after, "values": {name: value for name, value in cast(Body, values).items() if name in are or name not in were}}


def _entries(nodes: Any) -> list[tuple[str, Any]]:
    return list(cast(Body, nodes).items()) if isinstance(nodes, dict) else []


def _read(value: Any) -> Iterator[str]:
    """The values that plain data names, each once."""
    found = (_NAME.fullmatch(text) for text in texts(value))
    yield from dict.fromkeys(name[1] for name in found if name)
