"""MPO, Mixed Preference Optimization: arXiv:2411.10442, equation 2; TRL's `sigmoid`, `bco_pair` and `sft` together.

With u, v the summed log-ratios of the chosen and the rejected response against the reference:

    L = a_p [-log sig(beta (u - v))] + a_q [-log sig(beta u) - log sig(-beta v)] + a_g NLL(chosen)

for preference, quality and generation. The middle term is BCO's without its running mean. Units: nats. Defaults: beta
0.1, weights 0.8, 0.2 and 1, the NLL's mean over all chosen tokens (TRL). Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from objectives._likelihood import Reduction
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    preference_weight: float = Field(0.8, ge=0)
    """Weight of DPO's loss."""
    quality_weight: float = Field(0.2, ge=0)
    """Weight of the loss that tells good from bad responses, each by itself."""
    nll_weight: float = Field(1.0, ge=0)
    """Weight of the chosen response's negative log-likelihood."""
    nll_reduction: Reduction = "token_mean"
    """Mean over all chosen tokens, mean over each response's, or their sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels, _likelihood

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    preference_P = _kernels.logistic(config.beta * (chosen_P - rejected_P))
    quality_P = _kernels.logistic(config.beta * chosen_P) + _kernels.logistic(config.beta * rejected_P, 0.0)
    per_pair_P = config.preference_weight * preference_P + config.quality_weight * quality_P
    return _likelihood.beside(batch, per_pair_P, _kernels.pair_terms(chosen_P, rejected_P), config.nll_weight, config.nll_reduction)
