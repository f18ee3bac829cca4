"""The rows of a table as token ids: what was sampled is what is trained on.

Where a row has no token ids (demonstrations), or another tokenizer's, its text is tokenised once, and it says so: one of several
messages turn by turn, so that what tools and users say in it is masked out.
Training and scoring both read tables through here, so they see the same tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from models import chat, turns
from models.messages import Message
from pipeline.errors import Refusal

Ids = np.ndarray
BATCH_ROWS = 1024
"""Rows that are turned into arrays at a time."""


@dataclass(frozen=True)
class Response:
    """One response as token ids (int32)."""

    ids: Ids
    mask: np.ndarray | None = None
    """Which of them are trained on; None: every one."""

    @property
    def kept(self) -> np.ndarray:
        """The mask, whether or not there is one."""
        return np.ones(len(self.ids), bool) if self.mask is None else self.mask

    def cut(self, length: int) -> "Response":
        """The first `length` tokens."""
        return Response(self.ids[:length], None if self.mask is None else self.mask[:length])


@dataclass(frozen=True)
class Row:
    """One row of a table as token ids (int32): for `pairs`, the responses are (chosen, rejected)."""

    prompt: Ids
    responses: tuple[Response, ...]
    retokenised: bool

    def within(self, limit: int | None) -> tuple[Response, ...]:
        """The responses, cut where prompt and response have `limit` tokens."""
        return self.responses if limit is None else tuple(each.cut(max(limit - len(self.prompt), 0)) for each in self.responses)


def token_rows(table: pa.Table, kind: str, tokenizer: Any) -> Iterator[Row]:
    """The rows of a `pairs` or `candidates` table as token ids, in order.

    Raises Refusal for a mask that does not fit its tokens, and where the policy's turns cannot be told when a row is tokenised anew.
    """
    mine = _fingerprint(tokenizer)
    for start in range(0, table.num_rows, BATCH_ROWS):
        part = table.slice(start, BATCH_ROWS)
        theirs, names = part["tokenizer"].to_pylist(), part["id"].to_pylist()
        prompts = lists(part["prompt_token_ids"].combine_chunks())
        known = [theirs[i] == mine and prompt is not None for i, prompt in enumerate(prompts)]
        missing = [i for i, is_known in enumerate(known) if not is_known]
        if missing:
            chats = part["prompt"].take(missing).to_pylist()
            for i, ids in zip(missing, chat.render_all(tokenizer, chats), strict=True):
                prompts[i] = np.asarray(ids, np.int32)
        for i, (prompt, group) in enumerate(zip(prompts, _written(part, kind), strict=True)):
            assert prompt is not None
            fresh = [not known[i] or each.ids is None for each in group]
            responses = tuple(
                _spelled(tokenizer, part["prompt"][i].as_py(), each, f"rows: row {names[i]!r}, {each.name}")
                if is_fresh
                else _carried(each, f"rows: row {names[i]!r}, {each.name}")
                for each, is_fresh in zip(group, fresh, strict=True)
            )
            yield Row(prompt, responses, not known[i] or any(fresh))


@dataclass(frozen=True)
class _Written:
    """One response as the table has it."""

    name: str
    ids: Ids | None
    mask: np.ndarray | None
    said: Callable[[], list[Message]]
    """The messages, looked up where they are needed: most rows have token ids."""


def _carried(response: _Written, where: str) -> Response:
    assert response.ids is not None
    if response.mask is None:
        return Response(response.ids)
    if len(response.mask) != len(response.ids):
        raise Refusal(
            f"{where}: its mask has {len(response.mask)} flags and its response {len(response.ids)} tokens; give one flag for each token"
        )
    mask = response.mask.astype(bool)
    return Response(response.ids, None if mask.all() else mask)


def _spelled(tokenizer: Any, prompt: list[Message], response: _Written, where: str) -> Response:
    said = response.said()
    if len(said) == 1 and said[0]["role"] == "assistant" and not said[0].get("tool_calls"):
        if response.mask is not None and not response.mask.astype(bool).all():
            raise Refusal(
                f"{where}: its mask is over tokens that this model's tokenizer did not make, and it has no further messages to tell the "
                "policy's turns by; train the model whose tokens they are, or give the response's `messages`"
            )
        return Response(np.asarray(chat.response_ids(tokenizer, said[0]["content"]), np.int32))
    return Response(*turns.spelled(tokenizer, prompt, said, where))


def _fingerprint(tokenizer: Any) -> str:
    known = getattr(tokenizer, "_rematch_fingerprint", None)  # of a large vocabulary it takes a second, and shards are many
    if known is None:
        known = tokenizer._rematch_fingerprint = chat.fingerprint(tokenizer)
    return known


def _written(table: pa.Table, kind: str) -> Iterator[list[_Written]]:
    """The responses of each row."""
    if kind == "pairs":
        names = ("chosen", "rejected")
        ids, masks = ([lists(table[f"{name}_{what}"].combine_chunks()) for name in names] for what in ("token_ids", "mask"))
        for i in range(table.num_rows):
            yield [_Written(n, ids[j][i], masks[j][i], partial(_side, table[n], i)) for j, n in enumerate(names)]
        return
    column = table["responses"].combine_chunks()
    flat = column.flatten()
    ids, masks = lists(flat.field("token_ids")), lists(flat.field("mask"))
    bounds = (column.offsets.to_numpy() - column.offsets[0].as_py()).tolist()
    for a, b in pairwise(bounds):
        yield [_Written(f"response {at - a}", ids[at], masks[at], partial(_of_response, flat, at)) for at in range(a, b)]


def _side(column: Any, i: int) -> list[Message]:
    return column[i].as_py()


def _of_response(flat: Any, at: int) -> list[Message]:
    return flat.field("messages")[at].as_py() or [{"role": "assistant", "content": flat.field("text")[at].as_py()}]


def lists(column: Any) -> list[Any]:
    """A list column as one array (or Arrow slice) a row, None where it is null."""
    offsets = column.offsets.to_numpy()
    numeric = pa.types.is_primitive(column.type.value_type)
    values = column.values.to_numpy(zero_copy_only=False) if numeric else column.values
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return [values[a:b] if ok else None for a, b, ok in zip(offsets[:-1], offsets[1:], valid, strict=True)]
