"""A chat, as prompts and responses hold it."""

from typing import NotRequired, TypedDict


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
