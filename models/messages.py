"""A chat, as prompts and responses hold it, and how one is read out of what a file has."""

from collections.abc import Sequence
from typing import Any, cast

from pipeline.errors import Refusal

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""
ROLES = ("system", "user", "assistant", "tool")


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
        found.append({"role": role, "content": content})
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
