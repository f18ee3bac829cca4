"""The few formulas that most objectives are made of.

Shapes: N responses, T tokens, P pairs. Log-probabilities are natural logs; sums run over response tokens.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus

from objectives import Batch, Loss

if TYPE_CHECKING:
    from torch import Tensor


def logistic(z: "Tensor", p: "Tensor | float" = 1.0) -> "Tensor":
    """Cross-entropy of the probability sigmoid(z) against the label p: -[p log sig(z) + (1-p) log sig(-z)]."""
    return p * softplus(-z) + (1 - p) * softplus(z)


def squared(value: "Tensor", target: "Tensor | float") -> "Tensor":
    """(value - target)^2."""
    return (value - target) ** 2


def hinge(z: "Tensor", margin: float = 1.0) -> "Tensor":
    """max(0, margin - z)."""
    return torch.relu(margin - z)


def log1mexp(a: "Tensor") -> "Tensor":
    """log(1 - exp(a)) for a < 0, exact near 0 and far from it."""
    near = a > -math.log(2)
    # The branch that is not taken gets a harmless argument, so that its gradient is finite too.
    close = torch.log(-torch.expm1(torch.where(near, a, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, a)))
    return torch.where(near, close, far)


def log_odds_ratio(chosen_P: "Tensor", rejected_P: "Tensor") -> "Tensor":
    """log of odds(chosen) / odds(rejected), each exp(a) / (1 - exp(a)) of a mean log-probability a; a is kept below 0."""
    chosen_P, rejected_P = chosen_P.clamp(max=-1e-6), rejected_P.clamp(max=-1e-6)
    return chosen_P - rejected_P - (log1mexp(chosen_P) - log1mexp(rejected_P))


def totals(per_token: "Tensor", mask: "Tensor", *, mean: bool = False) -> "Tensor":
    """Sum over the tokens of each row (or their mean) of values (..., T)."""
    total = torch.where(mask, per_token, 0.0).sum(-1)
    return total / mask.sum(-1).clamp(min=1) if mean else total


def log_ratios(batch: Batch, *, mean: bool = False, reference: bool = True) -> "Tensor":
    """log pi(y)/pi_ref(y) of each response (N,): summed over its tokens, or their mean; without a reference log pi(y)."""
    per_token_NT = batch.logps_NT
    if reference:
        assert batch.ref_logps_NT is not None, "the objective declared that it needs a reference"
        per_token_NT = per_token_NT - batch.ref_logps_NT
    return totals(per_token_NT, batch.mask_NT, mean=mean)


def extra_log_ratios(batch: Batch, which: int = 0, *, mean: bool = False, reference: bool = True) -> "Tensor":
    """The same of the units' extra responses (U,)."""
    extra = batch.extra[which]
    per_token_UT = extra.logps_UT
    if reference:
        assert extra.ref_logps_UT is not None, "the objective declared that it needs the reference of its extra responses"
        per_token_UT = per_token_UT - extra.ref_logps_UT
    return totals(per_token_UT, extra.mask_UT, mean=mean)


def of_pairs(batch: Batch, value_N: "Tensor") -> "tuple[Tensor, Tensor]":
    """What belongs to the chosen and to the rejected response of each pair, (P,) each, or (P, T) of per-token values."""
    assert batch.pair_w_P is not None and batch.pair_l_P is not None, "the objective declared that it needs pairs"
    return value_N[batch.pair_w_P], value_N[batch.pair_l_P]


def labels(batch: Batch, smoothing: float = 0.0, *, soft: bool = False) -> "Tensor | float":
    """The target probability of each pair: 1, or the judge's if `soft`; mixed with its opposite by `smoothing`."""
    if not soft:
        return 1.0 - smoothing
    assert batch.pair_label_P is not None, "a batch of pairs has labels"
    return batch.pair_label_P * (1 - smoothing) + (1 - batch.pair_label_P) * smoothing


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


def chosen_nll(batch: Batch, weight: float) -> "Tensor":
    """-log pi of every token of every pair's chosen response, times weights (P, T): for `Loss.per_chosen_token_PT`."""
    logps_PT, _ = of_pairs(batch, batch.logps_NT)
    mask_PT, _ = of_pairs(batch, batch.mask_NT)
    per_token_PT = torch.where(mask_PT, -weight * logps_PT, 0.0)
    return per_token_PT if batch.pair_weight_P is None else per_token_PT * batch.pair_weight_P[:, None]


def per_token_ratios(batch: Batch) -> "Tensor":
    """log pi/pi_ref of each token (N, T), 0 where masked, whatever the reference holds there."""
    assert batch.ref_logps_NT is not None, "the objective declared that it needs a reference"
    return torch.where(batch.mask_NT, batch.logps_NT - torch.where(batch.mask_NT, batch.ref_logps_NT, 0.0), 0.0)


def gap(batch: Batch, opponents: "Sequence[tuple[float, Tensor]]", *, mean: bool = False) -> "Tensor":
    """What the Nash family regresses, h = D_pi - sum_k w_k D_k of each pair (P,).

    D_q = log q(chosen) - log q(rejected), over `opponents`: (w_k, log-probabilities (N, T) under policy k).
    """
    per_token_NT = batch.logps_NT
    for weight, logps_NT in opponents:
        per_token_NT = per_token_NT - weight * logps_NT
    chosen_P, rejected_P = of_pairs(batch, totals(per_token_NT, batch.mask_NT, mean=mean))
    return chosen_P - rejected_P


def regression(batch: Batch, gap_P: "Tensor", target: "Tensor | float", *, mean: bool = False) -> Loss:
    """(h - target)^2 of each pair, logged beside its log-ratios against the reference."""
    terms = pair_terms(*of_pairs(batch, log_ratios(batch, mean=mean)))
    return Loss(weighted(batch, squared(gap_P, target)), {**terms, "gap": gap_P.detach()})


def dpo_plus(batch: Batch, beta: float, more_P: "Tensor", name: str) -> Loss:
    """DPO's loss of each pair, and something added to it that is logged as `name`."""
    chosen_P, rejected_P = of_pairs(batch, log_ratios(batch))
    per_pair_P = logistic(beta * (chosen_P - rejected_P)) + more_P
    return Loss(weighted(batch, per_pair_P), {**pair_terms(chosen_P, rejected_P), name: more_P.detach()})


def masked_margin(batch: Batch) -> "tuple[Tensor, Tensor, Tensor]":
    """SparsePO's margin (U_w + K_w) - (U_l + K_l), and U_w and U_l, each (P,).

    U sums the tokens' log-ratios times the reward mask, K their KL(reference || policy) times the KL mask.
    """
    assert batch.token_kl_NT is not None and batch.reward_mask_NT is not None and batch.kl_mask_NT is not None, "declared needs"
    # Zeroed before they are multiplied: what is no number where masked would reach the masks' gradient.
    kl_NT = torch.where(batch.mask_NT, batch.token_kl_NT, 0.0)
    rewards_N = totals(batch.reward_mask_NT * per_token_ratios(batch), batch.mask_NT)
    kls_N = totals(batch.kl_mask_NT * kl_NT, batch.mask_NT)
    (reward_w_P, reward_l_P), (kl_w_P, kl_l_P) = of_pairs(batch, rewards_N), of_pairs(batch, kls_N)
    return reward_w_P - reward_l_P + kl_w_P - kl_l_P, reward_w_P, reward_l_P


def revision(batch: Batch, beta: float, *, mean: bool = False) -> "tuple[Tensor, Tensor, Tensor]":
    """SRPO's improvement loss, (1/2 - beta [k(w|l) - k(l|l)])^2 + (1/2 - beta [k(w|w) - k(l|w)])^2, and k(w|l), k(l|w); (P,).

    k(a|b) is the log-ratio of answer a to a prompt that shows answer b; the extra responses are, in this order,
    w given l, l given w, w given w, l given l.
    """
    w_l, l_w, w_w, l_l = (extra_log_ratios(batch, which, mean=mean) for which in range(4))
    return squared(beta * (w_l - l_l), 0.5) + squared(beta * (w_w - l_w), 0.5), w_l, l_w
