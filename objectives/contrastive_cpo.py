"""Contrastive Preference Optimization: arXiv:2401.08417, equation 5; TRL 1.16.0, experimental/cpo. Not constrained_po.py.

With C and R the summed log-probabilities of the chosen and the rejected response, and no reference:

    L = -(1 - eps) log sig(beta (C - R)) - eps log sig(-beta (C - R)) + lambda NLL(chosen)

which is DPO without a reference (dpo.py, `reference_free`) and a likelihood term. Units: nats. Defaults: beta 0.1,
lambda 1, its mean over all chosen tokens (TRL). Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from objectives._likelihood import Reduction
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Scale of the difference of log-probabilities."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a preference is the wrong way round."""
    nll_weight: float = Field(1.0, ge=0)
    """Weight of the chosen response's negative log-likelihood (TRL's `cpo_alpha`)."""
    nll_reduction: Reduction = "token_mean"
    """Mean over all chosen tokens, mean over each response's, or their sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the log-ratios logged are log-probabilities."""
    from objectives import _kernels, _likelihood

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, reference=False))
    per_pair_P = _kernels.logistic(config.beta * (chosen_P - rejected_P), 1 - config.label_smoothing)
    return _likelihood.beside(batch, per_pair_P, _kernels.pair_terms(chosen_P, rejected_P), config.nll_weight, config.nll_reduction)
