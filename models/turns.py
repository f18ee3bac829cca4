"""A response of several messages as token ids, and which of them the policy said: what is trained on.

The model's own template writes the conversation turn by turn. What it adds up to where the assistant begins to speak (tool and user
turns, headings) is masked out; what it adds for the assistant's message is trained on, up to the token that ends the turn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models import chat
from models.messages import Message
from pipeline.errors import Refusal


def spelled(tokenizer: Any, prompt: Sequence[Message], said: Sequence[Message], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (int32) of `said` after the prompt, and a mask: True where the policy speaks. What follows its last word is left out.

    `where` names the response in refusals: of a template that writes a turn differently when more follows, or ends none.
    """
    so_far = [*prompt]
    ids: list[int] = []
    mask: list[bool] = []
    at = chat.written(tokenizer, so_far, speak=True)
    last = max((i for i, message in enumerate(said) if message["role"] == "assistant"), default=-1)
    for i, message in enumerate(said[: last + 1]):
        if message["role"] != "assistant":
            so_far.append(message)
            continue
        before = chat.written(tokenizer, so_far, speak=True)
        so_far.append(message)
        after = chat.written(tokenizer, so_far, speak=False)
        heading, turn = _added(at, before, where, i), _added(before, after, where, i)
        masked = tokenizer(heading, add_special_tokens=False)["input_ids"]
        own, beyond = _turn(tokenizer, message, turn, f"{where}: message {i + 1} of {len(said)}")
        ids += [*masked, *own]
        mask += [False] * len(masked) + [True] * len(own)
        if i < last:
            ids += beyond
            mask += [False] * len(beyond)
        at = after
    return np.asarray(ids, np.int32), np.asarray(mask, bool)


def _added(before: str, after: str, where: str, i: int) -> str:
    if not after.startswith(before):
        raise Refusal(
            f"{where}: the chat template writes what stands before message {i + 1} differently when that message follows, so the policy's "
            "turns cannot be told from the rest; use a template that only ever adds, or keep the token ids and their mask"
        )
    return after[len(before) :]


def _turn(tokenizer: Any, message: Message, turn: str, where: str) -> tuple[list[int], list[int]]:
    """Token ids of an assistant's turn with the token that ends it, and of what the template writes after that."""
    content = message["content"] if turn.startswith(message["content"]) and not message.get("tool_calls") else ""
    rest: list[int] = tokenizer(turn[len(content) :], add_special_tokens=False)["input_ids"]
    controls = chat.control_ids(tokenizer)
    end = max((i for i, id in enumerate(rest) if id in controls), default=-1) + 1
    if not end:
        raise Refusal(
            f"{where} ends without a control token in the chat template, so where the policy's turn ends cannot be told; "
            "use a template that writes one, or keep the token ids and their mask"
        )
    return [*(chat.text_ids(tokenizer, content) if content else []), *rest[:end]], rest[end:]
