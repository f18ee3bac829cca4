"""The values of a foreign row: texts, numbers, missing columns. What is wrong is a Refusal that says where."""

import math
import re
from typing import Any

from models.messages import Message, shown
from pipeline.artifact import hash_of
from pipeline.errors import Refusal
from pipeline.plugin import unknown

Row = dict[str, Any]


def column(row: Row, name: str, where: str) -> Any:
    """The value of a column that must be there."""
    if name not in row:
        raise Refusal(f"{where}: {unknown('column', name, list(row))}; name it with `columns`, or mend the row")
    return row[name]


def text(value: Any, where: str, what: str) -> str:
    """A text that says something."""
    if not isinstance(value, str):
        raise Refusal(f"{where}: {what} is a text, not {shown(value)}; mend the row")
    if not value.strip():
        raise Refusal(f"{where}: {what} is empty; mend the row")
    return value


def items(value: Any, where: str, what: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise Refusal(f"{where}: {what} is a list, not {shown(value)}; mend the row")
    return value  # pyright: ignore[reportUnknownVariableType]


def number(value: Any, where: str, what: str) -> float | None:
    """A finite number, or None of null: nobody knows."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(f"{where}: {what} is a number or null, not {shown(value)}; mend the row")
    if not math.isfinite(value):
        raise Refusal(f"{where}: {what} is {value}; write null where there is no score")
    return float(value)


def identity(row: Row, where: str) -> str | None:
    """The id that a row brings; None if it has none."""
    value = row.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Refusal(f"{where}: `id` is a text or a whole number, not {shown(value)}; mend the row")
    return str(value)


def pair_id(prompt_id: str, chosen: str, rejected: str) -> str:
    """The id of a pair that has none: its prompt's, and 32 bits of BLAKE3 over both texts."""
    return f"{prompt_id}.{hash_of([chosen, rejected])[:8]}"


def assistant(said: str) -> list[Message]:
    """A response as pairs hold it."""
    return [{"role": "assistant", "content": said}]


def turns(prompt: Any) -> Any:
    """HelpSteer's prompt: a text in which `<extra_id_1>User` and `<extra_id_1>Assistant` begin further turns; anything else as it is."""
    parts = re.split(r"\n<extra_id_1>(User|Assistant)\n", prompt) if isinstance(prompt, str) else []
    if len(parts) < 2:
        return prompt
    return [{"role": role, "content": said} for role, said in zip(["user", *(who.lower() for who in parts[1::2])], parts[::2], strict=True)]
