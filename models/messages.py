"""A chat, as prompts and responses hold it."""

import json
from typing import Any, NotRequired, TypedDict

from pipeline.errors import Refusal


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    """system, user, assistant or tool."""
    content: str
    tool_calls: NotRequired[str | None]
    """Of an assistant that calls tools: the JSON text of a list, in the shape that the model's chat template takes."""


def known(message: Message) -> Message:
    """The message without what is null in it, as a table's rows have it."""
    return {name: value for name, value in message.items() if value is not None}  # type: ignore[return-value]


def called(message: Message) -> dict[str, Any]:
    """A message with its tool calls as data, and without that key where there are none. Raises Refusal if they are not JSON."""
    calls = message.get("tool_calls")
    bare = {"role": message["role"], "content": message["content"]}
    if not calls:
        return bare
    try:
        return {**bare, "tool_calls": json.loads(calls)}
    except ValueError as error:
        raise Refusal(f"messages: the tool_calls {calls[:80]!r} are not JSON ({error}); mend them where the row is made") from error
