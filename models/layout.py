"""Sequences as the tensors of one forward pass: padded on the right, with the places that predict response tokens.

Tokens that are masked out keep their place among the response tokens, so that the output layer sees the same rows whatever is masked
(fewer rows would take another kernel, and other last bits), and what it makes of them goes nowhere.
Legend: N sequences, S tokens of a sequence, T response tokens, R response tokens in all, V tokens.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A micro-batch as tensors: sequences padded on the right, and where their response tokens are."""

    ids_NS: "Tensor"
    at_R: "Tensor"
    """Position in the flattened (N * S) hidden states that predicts each response token."""
    target_R: "Tensor"
    """The response tokens."""
    cell_R: "Tensor"
    """Where each of them goes in the flattened (N * T) log-probabilities."""
    mask_NT: "Tensor"
    """Where there is a response token that is trained on."""
    kept_R: "Tensor | None" = None
    """The same of each response token; None: all are."""


def layout(
    tokens_V: np.ndarray,
    starts_N: np.ndarray,
    prompts_N: np.ndarray,
    responses_N: np.ndarray,
    device: str,
    kept_R: np.ndarray | None = None,
) -> Layout:
    """The tensors of a forward over sequences that lie end to end in `tokens_V`; `kept_R`: which response tokens are trained on."""
    import torch

    lengths_N = prompts_N + responses_N
    n, s, t = len(starts_N), int(lengths_N.max()), max(int(responses_N.max()), 1)
    at_S = np.arange(s)
    inside_NS = at_S < lengths_N[:, None]
    ids_NS = np.zeros((n, s), np.int64)
    ids_NS[inside_NS] = tokens_V[(starts_N[:, None] + at_S)[inside_NS]]
    mask_NT = np.arange(t) < responses_N[:, None]
    row_R, column_R = np.nonzero(mask_NT)
    position_R = prompts_N[row_R] + column_R
    found = [ids_NS, row_R * s + position_R - 1, ids_NS[row_R, position_R], row_R * t + column_R, mask_NT]
    if kept_R is not None and not kept_R.all():
        found[-1] = mask_NT.copy()
        found[-1][mask_NT] = kept_R
        found.append(kept_R)
    return Layout(*(torch.from_numpy(each).to(device, non_blocking=True) for each in found))
