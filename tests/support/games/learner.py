"""One policy's data put to a real objective: its loss, its gradient, and the policy that minimises it.

The batch holds the N responses once, as one token each, and all N x N ordered pairs (chosen, rejected) with the
frequency of each as its weight, so that the weighted sum over units is the expectation that the trainer estimates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from objectives import Batch
from pipeline import plugin


@dataclass(frozen=True)
class Data:
    """What one round's data say, beside the policy in training. Policies are logs of probabilities, (N,)."""

    pairs_NN: Tensor | None = None
    """Frequency of each pair, row beating column."""
    label_NN: Tensor | None = None
    """P(row beats column) as the pairs' labels; without it a pair's first response simply won."""
    rows_N: Tensor | None = None
    """Frequency of each response, for objectives whose unit is not the pair."""
    reference_N: Tensor | None = None
    history_HN: Tensor | None = None
    win_rate_N: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """A module of objectives/ with its settings."""

    module: ModuleType
    config: Any

    def loss(self, logps_N: Tensor, data: Data) -> Tensor:
        """The expected loss of a policy, as the trainer reduces it: weighted sum of the units' losses."""
        found = self.module.loss(self.config, batch(logps_N, data)).per_unit
        if data.pairs_NN is not None:
            return found.sum()
        assert data.rows_N is not None, "data are of pairs or of rows"
        return (found.reshape(len(data.rows_N), -1).sum(1) * data.rows_N).sum()


def objective(kind: str, **settings: Any) -> Objective:
    module = plugin.load("objectives", kind)
    return Objective(module, module.Config(**settings))


def batch(logps_N: Tensor, data: Data) -> Batch:
    """The Batch that the trainer would make of these responses."""
    count = len(logps_N)
    at = torch.arange(count)
    given: dict[str, Any] = {}
    if data.pairs_NN is not None:
        labels_NN = torch.ones_like(data.pairs_NN) if data.label_NN is None else data.label_NN
        given |= {"pair_w_P": at.repeat_interleave(count), "pair_l_P": at.repeat(count)}
        given |= {"pair_weight_P": data.pairs_NN.flatten(), "pair_label_P": labels_NN.flatten()}
    return Batch(
        logps_NT=logps_N[:, None],
        mask_NT=torch.ones(count, 1, dtype=torch.bool),
        ref_logps_NT=None if data.reference_N is None else data.reference_N[:, None],
        history_HNT=None if data.history_HN is None else data.history_HN[..., None],
        group_N=torch.zeros(count, dtype=torch.long),
        win_rate_N=data.win_rate_N,
        score_N=data.win_rate_N,
        **given,
    )


def softmax(theta_N: Tensor) -> Tensor:
    """log of the policy with these logits."""
    return torch.log_softmax(theta_N, 0)


def unnormalised(weights_N: Tensor) -> Tensor:
    """Log-weights as they are: for losses of differences, which cannot tell, and to see what a normaliser costs."""
    return weights_N


def gradient(of: Objective, theta_N: Tensor, data: Data, policy: Callable[[Tensor], Tensor] = softmax) -> Tensor:
    """What back-propagation through the objective gives for the logits (N,)."""
    leaf_N = theta_N.detach().requires_grad_()
    (found_N,) = torch.autograd.grad(of.loss(policy(leaf_N), data), leaf_N)
    return found_N


def minimise(of: Objective, theta_N: Tensor, data: Data, policy: Callable[[Tensor], Tensor] = softmax, reach: float = math.inf) -> Tensor:
    """Logits at the minimum of the loss, by Newton's method on back-propagated gradients; one step where it is quadratic.

    Directions that the data say nothing about are left alone. A step moves no logit by more than `reach`, and there are at most
    30: on finite samples a logistic loss may have no minimum.
    """
    precision = torch.finfo(theta_N.dtype).eps
    theta_N = theta_N.detach()
    for _ in range(30):
        leaf_N = theta_N.clone().requires_grad_()
        (slope_N,) = torch.autograd.grad(of.loss(policy(leaf_N), data), leaf_N, create_graph=True)
        every_N = torch.eye(len(slope_N), dtype=slope_N.dtype)
        (curve_NN,) = torch.autograd.grad(slope_N, leaf_N, every_N, is_grads_batched=True)
        # Rare responses have small gradients: compare each with its own curvature.
        size_N = curve_NN.diagonal().abs().clamp(min=1e-300).rsqrt()
        scaled_NN = size_N[:, None] * curve_NN * size_N
        move_N = size_N * (torch.linalg.pinv(scaled_NN, rtol=precision**0.5, hermitian=True) @ (size_N * slope_N.detach()))
        move_N = move_N * min(1.0, reach / max(float(move_N.abs().max()), 1e-300))
        theta_N = theta_N - move_N
        if move_N.abs().max() < precision**0.7:
            break
    return theta_N
