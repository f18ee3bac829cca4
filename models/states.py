"""What a fixed model thinks of whole responses: log-probabilities, entropies and one vector each, in a single pass.

The same decoder, logits and tokens as in training (`models.forward`, `models.tokens`), batched by length. The vector of a response is
the mean of the last layer's states (after the final norm) over its own tokens: those that are trained on.
Legend: N responses, S tokens of a sequence, R response tokens of a batch, H hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models import forward
from models.batching import by_length
from models.layout import layout
from models.tokens import token_rows


@dataclass(frozen=True)
class Seen:
    """One response under one model."""

    logps_R: np.ndarray
    """Of its own tokens, float32, nats."""
    entropies_R: np.ndarray
    """Of the distributions that they were drawn from, nats."""
    mean_H: np.ndarray
    """Its representation; zeros if it has no tokens."""
    kept_T: np.ndarray
    """Which of all its tokens are its own, less those that a mask leaves out."""


def look(model: Any, tokenizer: Any, table: pa.Table, kind: str, limit: int | None, tokens: int) -> list[tuple[Seen, ...]]:
    """Every response of each row of a `pairs` or `candidates` table, in order; at most `tokens` padded tokens at a time.

    Tokens of prompt and response beyond `limit` are cut, as `logprobs` and training cut them.
    """
    found = list(token_rows(table, kind, tokenizer))
    cut = [row.within(limit) for row in found]
    sequences = [np.concatenate([row.prompt, response.ids]) for row, some in zip(found, cut, strict=True) for response in some]
    prompts_N = np.asarray([len(row.prompt) for row, some in zip(found, cut, strict=True) for _ in some], np.int64)
    lengths_N = np.asarray([len(ids) for ids in sequences], np.int64)
    kept = [response.kept for some in cut for response in some]
    seen = iter(_seen(model, sequences, prompts_N, lengths_N - prompts_N, tokens, kept))
    return [tuple(next(seen) for _ in some) for some in cut]


def _seen(
    model: Any,
    sequences: Sequence[np.ndarray],
    prompts_N: np.ndarray,
    responses_N: np.ndarray,
    tokens: int,
    kept: Sequence[np.ndarray],
) -> list[Seen]:
    device = str(next(model.parameters()).device)
    nothing, still_H = np.zeros(0, np.float32), np.zeros(int(model.config.get_text_config().hidden_size), np.float32)
    found = [Seen(nothing, nothing, still_H, each) for each in kept]
    lengths_N = prompts_N + responses_N
    some = [i for i, each in enumerate(kept) if responses_N[i] and each.any()]
    for batch in by_length(lengths_N.tolist(), tokens, among=some):
        picked = lengths_N[batch]
        laid = layout(
            np.concatenate([sequences[i] for i in batch]), np.cumsum(picked) - picked, prompts_N[batch], responses_N[batch], device
        )
        ends = np.cumsum(responses_N[batch])
        with torch.inference_mode():
            flat_SH = model.get_decoder()(input_ids=laid.ids_NS, use_cache=False).last_hidden_state.flatten(0, 1)
            logps_R, entropies_R = _logps_and_entropies(model, flat_SH, laid.at_R, laid.target_R)
            own_RH = flat_SH.index_select(0, laid.at_R + 1).float().cpu().numpy()
        for i, start, stop in zip(batch, ends - responses_N[batch], ends, strict=True):
            logps, entropies, states = (each[start:stop][kept[i]] for each in (logps_R, entropies_R, own_RH))
            found[i] = Seen(logps, entropies, states.mean(0, dtype=np.float64).astype(np.float32), kept[i])
    return found


def _logps_and_entropies(model: Any, flat_SH: Tensor, at_R: Tensor, target_R: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of the tokens `target_R`, each predicted by the state at `at_R`; in chunks, because all logits at once may not fit."""
    logits = forward.head(model)
    rows = max(1, forward.CHUNK_LOGITS // int(model.config.get_text_config().vocab_size))
    logps: list[Tensor] = []
    entropies: list[Tensor] = []
    for at, target in zip(at_R.split(rows), target_R.split(rows), strict=True):
        logps_RV = torch.log_softmax(logits(flat_SH.index_select(0, at)), -1)
        logps.append(logps_RV.gather(1, target[:, None])[:, 0].float().cpu())
        entropies.append(torch.special.entr(logps_RV.exp()).sum(-1).float().cpu())
    return torch.cat(logps).numpy(), torch.cat(entropies).numpy()
