"""SRPO, Self-improving Robust Preference Optimization: arXiv:2406.01660.

One policy answers, and revises an answer that its prompt shows. With r the log-ratio of an answer against the reference, and
k(a|b) that of answer a after a prompt that shows answer b; the paper's min-max problem, solved for both, gives two regressions:

    L_gen = (1/2 - beta/2 [k(w|l) - k(l|w) + r(w) - r(l)])^2
    L_imp = (1/2 - beta [k(w|l) - k(l|l)])^2 + (1/2 - beta [k(w|w) - k(l|w)])^2
    L     = (1 - alpha) L_gen + alpha L_imp

The four extra responses of a pair are, in this order, w given l, l given w, w given w, l given l; the answer shown is no part of
the loss. Units: squared probabilities; 1/4 + alpha/4 before the first step. Defaults: beta 0.1, alpha 0.5. Unverified: that the
paper writes the loss like this (it is derived here from its objective), its alpha, and whether its log-ratios are sums.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "extra", "extra_reference"})
EXTRAS = 4
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference; a margin of 1/(2 beta) is aimed at."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Share of the loss of revising."""
    length_average: bool = False
    """Mean over response tokens; false: sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    improve_P, w_given_l_P, l_given_w_P = _kernels.revision(batch, config.beta, mean=config.length_average)
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, mean=config.length_average))
    answer_P = _kernels.squared(config.beta / 2 * (w_given_l_P - l_given_w_P + chosen_P - rejected_P), 0.5)
    per_pair_P = (1 - config.alpha) * answer_P + config.alpha * improve_P
    terms = {**_kernels.pair_terms(chosen_P, rejected_P), "improve": improve_P.detach()}
    return Loss(_kernels.weighted(batch, per_pair_P), terms)
