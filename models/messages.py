"""A chat, as prompts and responses hold it, and how one is read out of what a file has."""

import json
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, cast

from pipeline.errors import Refusal

ROLES = ("system", "user", "assistant", "tool")


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


def chat_of(value: Any, where: str, what: str) -> tuple[Message, ...]:
    """The messages of a list of {role, content}. Raises Refusal, beginning with `where`, if it is none; `what` names what it should be."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise Refusal(f"{where}: {what} is a text or a list of {{role, content}}, not {shown(value)}; name another field")
    found: list[Message] = []
    for item in cast(Sequence[Any], value):
        body = cast(dict[str, Any], item) if isinstance(item, dict) else {}
        role, content = body.get("role"), body.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise Refusal(f"{where}: a message is {{role: {' | '.join(ROLES)}, content: text}}, not {shown(item)}; mend the row")
        message: Message = {"role": role, "content": content}
        if calls := body.get("tool_calls"):
            message["tool_calls"] = calls if isinstance(calls, str) else json.dumps(calls, ensure_ascii=False)
        found.append(message)
    return tuple(found)


def prompt_of(value: Any, where: str) -> tuple[Message, ...]:
    """A prompt: a text is one user message, and a chat ends before the assistant speaks. Raises Refusal, beginning with `where`."""
    if isinstance(value, str):
        if not value.strip():
            raise Refusal(f"{where}: the prompt is empty; remove the row")
        return ({"role": "user", "content": value},)
    found = chat_of(value, where, "a prompt")
    if found[-1]["role"] == "assistant":
        raise Refusal(f"{where}: the prompt ends with an assistant message, so there is nothing to answer; cut it off")
    return found


def shown(value: Any) -> str:
    """A value as a sentence can show it: at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
