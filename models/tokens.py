"""The rows of a table as token ids: what was sampled is what is trained on.

Where a row has no token ids (demonstrations), or another tokenizer's, its text is tokenised once, and it says so.
Training and scoring both read tables through here, so they see the same tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from models import chat

Ids = np.ndarray
BATCH_ROWS = 1024
"""Rows that are turned into arrays at a time."""


@dataclass(frozen=True)
class Row:
    """One row of a table as token ids (int32): for `pairs`, the responses are (chosen, rejected)."""

    prompt: Ids
    responses: tuple[Ids, ...]
    retokenised: bool


def token_rows(table: pa.Table, kind: str, tokenizer: Any) -> Iterator[Row]:
    """The rows of a `pairs` or `candidates` table as token ids, in order."""
    mine = _fingerprint(tokenizer)
    for start in range(0, table.num_rows, BATCH_ROWS):
        part = table.slice(start, BATCH_ROWS)
        theirs = part["tokenizer"].to_pylist()
        prompts = lists(part["prompt_token_ids"].combine_chunks())
        known = [theirs[i] == mine and prompt is not None for i, prompt in enumerate(prompts)]
        missing = [i for i, is_known in enumerate(known) if not is_known]
        if missing:
            chats = part["prompt"].take(missing).to_pylist()
            for i, ids in zip(missing, chat.render_all(tokenizer, chats), strict=True):
                prompts[i] = np.asarray(ids, np.int32)
        texts, ids = _responses(part, kind)
        for i, prompt in enumerate(prompts):
            assert prompt is not None
            fresh = [not known[i] or found is None for found in ids[i]]
            responses = tuple(
                np.asarray(chat.response_ids(tokenizer, texts(i, j)), np.int32) if fresh[j] else found for j, found in enumerate(ids[i])
            )
            yield Row(prompt, responses, not known[i] or any(fresh))


def _fingerprint(tokenizer: Any) -> str:
    known = getattr(tokenizer, "_rematch_fingerprint", None)  # of a large vocabulary it takes a second, and shards are many
    if known is None:
        known = tokenizer._rematch_fingerprint = chat.fingerprint(tokenizer)
    return known


def _responses(table: pa.Table, kind: str) -> tuple[Any, list[list[Ids | None]]]:
    """How to get the text of response j of row i, and the token ids of all responses (None where there are none)."""
    if kind == "pairs":
        columns = ("chosen", "rejected")
        sides = [lists(table[f"{name}_token_ids"].combine_chunks()) for name in columns]
        return lambda i, j: table[columns[j]][i].as_py()[-1]["content"], [list(both) for both in zip(*sides, strict=True)]
    column = table["responses"].combine_chunks()
    flat = column.flatten()
    texts, ids = flat.field("text"), lists(flat.field("token_ids"))
    bounds = (column.offsets.to_numpy() - column.offsets[0].as_py()).tolist()
    return lambda i, j: texts[bounds[i] + j].as_py(), [ids[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def lists(column: Any) -> list[Any]:
    """A list column as one array (or Arrow slice) a row, None where it is null."""
    offsets = column.offsets.to_numpy()
    numeric = pa.types.is_primitive(column.type.value_type)
    values = column.values.to_numpy(zero_copy_only=False) if numeric else column.values
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return [values[a:b] if ok else None for a, b, ok in zip(offsets[:-1], offsets[1:], valid, strict=True)]
