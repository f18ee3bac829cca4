"""What a recipe that `extends` another one says differently, over plain data.

Mappings merge at every depth; all else replaces what was there, `{by_round: ...}` as one value; null takes away what was there.
Where a patch picks another `kind` or `stage`, its settings replace those of the one before, which another plugin could not read.
"""

from collections.abc import Iterator
from typing import Any, cast

Body = dict[str, Any]


def patched(base: Body, patch: Body) -> Body:
    """A recipe with a patch over it, each node of the patch standing before the first that reads it."""
    body = _merged(base, patch)
    for section in ("start", "round"):
        if isinstance(body.get(section), dict):
            body[section] = _ordered(body[section])
    return body


def by_round(value: Any) -> bool:
    """Whether a value is written round by round."""
    return isinstance(value, dict) and set(cast(Body, value)) == {"by_round"}


def _merged(base: Any, patch: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(patch, dict) or by_round(base) or by_round(patch) or _picks_another(base, patch):
        return patch
    merged = dict(cast(Body, base))
    for name, value in cast(Body, patch).items():
        if name in merged and value is None:
            del merged[name]
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _picks_another(base: Body, patch: Body) -> bool:
    return any(name in patch and name in base and set(_picked(patch[name])) != set(_picked(base[name])) for name in ("kind", "stage"))


def _picked(value: Any) -> Iterator[str]:
    """What a `kind` or `stage` picks in any round; a node that is not there in some rounds is no other node."""
    values = cast(Body, value)["by_round"] if by_round(value) else [value]
    yield from (str(each) for each in (cast(list[Any], values) if isinstance(values, list) else []) if each is not None)


def _ordered(nodes: Body) -> Body:
    """The nodes as they stand, but each after those of the same section that it reads."""
    ordered: Body = {}
    begun: set[str] = set()

    def place(name: str) -> None:
        if name not in begun:
            begun.add(name)
            for text in texts(nodes[name], but=("stage", "kind")):
                if text in nodes:
                    place(text)
            ordered[name] = nodes[name]

    for name in nodes:
        place(name)
    return ordered


def texts(value: Any, but: tuple[str, ...] = ()) -> Iterator[str]:
    """Every text among the values of plain data, without those of the fields `but`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in cast(Body, value).items():
            if name not in but:
                yield from texts(each, but)
    elif isinstance(value, list):
        for each in cast(list[Any], value):
            yield from texts(each, but)
