"""The few formulas that most pairwise objectives are made of.

Shapes: N responses, T tokens, P pairs. Log-probabilities are natural logs; sums run over response tokens.
"""

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus

from objectives import Batch

if TYPE_CHECKING:
    from torch import Tensor


def logistic(z: "Tensor", p: "Tensor | float" = 1.0) -> "Tensor":
    """Cross-entropy of the probability sigmoid(z) against the label p: -[p log sig(z) + (1-p) log sig(-z)]."""
    return p * softplus(-z) + (1 - p) * softplus(z)


def squared(value: "Tensor", target: "Tensor | float") -> "Tensor":
    """(value - target)^2."""
    return (value - target) ** 2


def log_ratios(batch: Batch, *, mean: bool = False, reference: bool = True) -> "Tensor":
    """log pi(y)/pi_ref(y) of each response (N,): summed over its tokens, or their mean; without a reference log pi(y)."""
    per_token_NT = batch.logps_NT
    if reference:
        assert batch.ref_logps_NT is not None, "the objective declared that it needs a reference"
        per_token_NT = per_token_NT - batch.ref_logps_NT
    total_N = torch.where(batch.mask_NT, per_token_NT, 0.0).sum(-1)
    return total_N / batch.mask_NT.sum(-1).clamp(min=1) if mean else total_N


def of_pairs(batch: Batch, value_N: "Tensor") -> "tuple[Tensor, Tensor]":
    """What belongs to the chosen and to the rejected response of each pair, (P,) each."""
    assert batch.pair_w_P is not None and batch.pair_l_P is not None, "the objective declared that it needs pairs"
    return value_N[batch.pair_w_P], value_N[batch.pair_l_P]


def weighted(batch: Batch, per_pair_P: "Tensor") -> "Tensor":
    """The losses of the pairs times their weights."""
    return per_pair_P if batch.pair_weight_P is None else per_pair_P * batch.pair_weight_P


def pair_terms(chosen_P: "Tensor", rejected_P: "Tensor") -> "dict[str, Tensor]":
    """What every pairwise objective logs, in nats and free of beta so that methods can be compared."""
    margin_P = (chosen_P - rejected_P).detach()
    return {
        "margin": margin_P,
        "accuracy": (margin_P > 0).to(margin_P.dtype),
        "chosen_logratio": chosen_P.detach(),
        "rejected_logratio": rejected_P.detach(),
    }
