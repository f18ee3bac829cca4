"""Arithmetic on the weights of several checkpoints, tensor by tensor, in float32 (float64 stays float64).

Accelerated Preference Optimization (arXiv:2410.06293): in a log-linear policy, pi_hat * (pi_hat / pi_hat_prev)^alpha is
w + alpha (w - w_prev). Averages are those of model soups (arXiv:2203.05482).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def extrapolate(new: Tensor, previous: Tensor, alpha: float) -> Tensor:
    """new + alpha (new - previous), in the dtype of `new`; with alpha 0 it is `new`, bit for bit."""
    if alpha == 0:
        return new.clone()
    wide = _wide(new)
    return (new.to(wide) + alpha * (new.to(wide) - previous.to(wide))).to(new.dtype)


def beyond(both: Sequence[Tensor], alpha: float) -> Tensor:
    """`extrapolate` for the tensors (new, previous)."""
    new, previous = both
    return extrapolate(new, previous, alpha)


def average(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean, in the dtype of the first; the weights are divided by their sum."""
    wide, total = _wide(tensors[0]), sum(weights)
    mean = tensors[0].to(wide) * (weights[0] / total)
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        mean = mean + tensor.to(wide) * (weight / total)
    return mean.to(tensors[0].dtype)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
