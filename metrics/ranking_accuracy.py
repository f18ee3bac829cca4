"""Ranking accuracy: how often a model gives the chosen response the larger log-probability.

Source: "Preference Learning Algorithms Do Not Learn Preference Rankings" (arXiv:2405.19534): C, R are summed
log-probabilities of chosen and rejected under the policy, X, Y under the reference. Not to be confused with the accuracy
that trainers log, of implicit rewards (C - X > R - Y). Comparisons are strict: a tie is not right, and ties are reported.
Legend: P pairs.
"""

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
LABEL = 0.75
"""Share of annotators that is taken to prefer the chosen response where only one label is known, as in the source's code."""
SURE = 0.999
"""Larger shares count as this one, or one sure pair would have an infinite margin."""


@dataclass(frozen=True)
class Reference:
    """What a pair's log-probabilities say beside the reference's; shares of pairs, log-probabilities in nats."""

    ranking_accuracy: float | None
    """Of the reference itself."""
    reward_accuracy: float | None
    """Share of pairs with C - X > R - Y."""
    hardness_mean: float | None
    """Mean of Y - X: how far the reference is on the wrong side; the policy ranks a pair rightly once its margin exceeds it."""


def ranking_accuracy(chosen_P: Array, rejected_P: Array) -> float | None:
    """The share of pairs with the chosen log-probability above the rejected one; None of no pairs."""
    return float(np.mean(np.asarray(chosen_P) > np.asarray(rejected_P))) if len(chosen_P) else None


def tie_share(chosen_P: Array, rejected_P: Array) -> float | None:
    """The share of pairs with two equal log-probabilities; None of no pairs."""
    return float(np.mean(np.asarray(chosen_P) == np.asarray(rejected_P))) if len(chosen_P) else None


def length_normalised(logps_P: Array, lengths_P: Array) -> Array:
    """Log-probability a token; NaN for a response without tokens, which then ranks nothing rightly."""
    lengths_P = np.asarray(lengths_P, float)
    return np.divide(logps_P, lengths_P, out=np.full(len(lengths_P), np.nan), where=lengths_P > 0)


def against_reference(chosen_P: Array, rejected_P: Array, ref_chosen_P: Array, ref_rejected_P: Array) -> Reference:
    """What can be said once the reference's log-probabilities are known."""
    hard_P = hardness(ref_chosen_P, ref_rejected_P)
    return Reference(
        ranking_accuracy=ranking_accuracy(ref_chosen_P, ref_rejected_P),
        reward_accuracy=ranking_accuracy(np.subtract(chosen_P, ref_chosen_P), np.subtract(rejected_P, ref_rejected_P)),
        hardness_mean=float(hard_P.mean()) if len(hard_P) else None,
    )


def hardness(ref_chosen_P: Array, ref_rejected_P: Array) -> Array:
    """Y - X in nats: the margin that the policy needs over the reference to rank the pair rightly."""
    return np.subtract(ref_rejected_P, ref_chosen_P).astype(float)


def flip_threshold_loss(ref_chosen_P: Array, ref_rejected_P: Array, beta: float) -> Array:
    """The DPO loss below which a pair is ranked rightly: softplus(-beta * (Y - X))."""
    return np.logaddexp(0.0, -beta * hardness(ref_chosen_P, ref_rejected_P))


def idealised_margins(ref_chosen_P: Array, ref_rejected_P: Array, label_P: Array, beta: float) -> Array:
    """C* - R* of the exact minimiser of the RLHF objective: (X - Y) + logit(label) / beta.

    `label_P` is the share of annotators (or the judge's probability) that prefers the chosen response; NaN stands for LABEL.
    """
    label_P = np.asarray(label_P, float)
    label_P = np.clip(np.where(np.isnan(label_P), LABEL, label_P), 1 - SURE, SURE)
    return -hardness(ref_chosen_P, ref_rejected_P) + np.log(label_P / (1 - label_P)) / beta


def idealised_ranking_accuracy(ref_chosen_P: Array, ref_rejected_P: Array, label_P: Array, beta: float) -> float | None:
    """The ranking accuracy that perfect training from this reference would reach; None of no pairs."""
    margins_P = idealised_margins(ref_chosen_P, ref_rejected_P, label_P, beta)
    return float(np.mean(margins_P > 0)) if len(margins_P) else None


def saturated_share(reward_margins_P: Array, sure: float = 0.95) -> float | None:
    """The share of pairs with sigmoid(beta * margin) above `sure`, which hardly train any more; `reward_margins_P` holds beta * margin."""
    return float(np.mean(np.asarray(reward_margins_P) > math.log(sure / (1 - sure)))) if len(reward_margins_P) else None
