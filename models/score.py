"""Scores the responses of a table under a fixed model, batched by length over the whole table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models import Model, chat, forward
from models.batching import by_length
from models.layout import layout
from models.tokens import token_rows
from pipeline import ragged, rows
from pipeline.artifact import Facts


@contextmanager
def opened(model: Model, dtype: str, device: str) -> Iterator[tuple[Any, Any]]:
    """The loaded model and its tokenizer."""
    with forward.opened(model, dtype, device) as loaded:
        yield loaded, chat.load_tokenizer(model.folder)


def score(model: Any, tokenizer: Any, table: pa.Table, kind: str, limit: int | None, tokens: int) -> tuple[pa.Table, Facts]:
    """A `logprobs` row for each row of a `pairs` or `candidates` table; at most `tokens` padded tokens at a time."""
    found = list(token_rows(table, kind, tokenizer))
    cut = [row.within(limit) for row in found]
    responses = [response for some in cut for response in some]
    sequences = [np.concatenate([row.prompt, response.ids]) for row, some in zip(found, cut, strict=True) for response in some]
    prompts_N = np.asarray([len(row.prompt) for row, some in zip(found, cut, strict=True) for _ in some], np.int64)
    lengths_N = np.asarray([len(ids) for ids in sequences], np.int64)
    kept = [response.kept for response in responses]
    logps = logps_of(model, sequences, prompts_N, lengths_N - prompts_N, tokens, kept)
    values, kept_R = np.concatenate([np.zeros(0, np.float32), *logps]), np.concatenate([np.zeros(0, bool), *kept])
    whole = sum(len(response.ids) for row in found for response in row.responses)
    facts: Facts = {
        "rows": table.num_rows,
        "responses": len(sequences),
        "tokens": int(kept_R.sum()),
        "truncated": whole - len(values),
        "retokenised": sum(row.retokenised for row in found),
        "logprob": float(values.sum(dtype=np.float64)),
    }
    per_token = pa.array(values, pa.float32(), mask=None if kept_R.all() else ~kept_R)
    per_response = ragged.lists(per_token, map(len, logps))
    per_row = ragged.lists(per_response, (len(row.responses) for row in found))
    return pa.table({"id": table["id"], "logprobs": per_row}).cast(rows.TABLES["logprobs"]), facts


def logps_of(
    model: Any,
    sequences: list[np.ndarray],
    prompts_N: np.ndarray,
    responses_N: np.ndarray,
    tokens: int,
    kept: list[np.ndarray],
) -> list[np.ndarray]:
    """Log-probabilities of the response tokens of each sequence, float32, in the order given; 0 where one is not `kept`."""
    device = str(next(model.parameters()).device)
    lengths_N = prompts_N + responses_N
    found = [np.zeros(0, np.float32)] * len(sequences)
    for batch in by_length(lengths_N.tolist(), tokens, among=np.flatnonzero(responses_N).tolist()):
        picked = lengths_N[batch]
        flat, kept_R = (np.concatenate([some[i] for i in batch]) for some in (sequences, kept))
        laid = layout(flat, np.cumsum(picked) - picked, prompts_N[batch], responses_N[batch], device, kept_R)
        with torch.inference_mode():
            logps_NT = forward.response_logps(model, laid).float().cpu().numpy()
        for row, i in enumerate(batch):
            found[i] = logps_NT[row, : responses_N[i]].copy()
    return found
