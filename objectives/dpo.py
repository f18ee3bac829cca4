"""DPO, Direct Preference Optimization: arXiv:2305.18290, equation 7; TRL's `sigmoid`. With label smoothing, cDPO.

With d = (log-ratio of chosen) - (log-ratio of rejected), summed over response tokens, against the reference:

    L = -(1 - eps) log sig(beta d) - eps log sig(-beta d)

Units: nats. ln 2 before the first step. Defaults: beta 0.1 (the paper); iterative recipes usually take 0.01.
TRL since 0.29 accepts label smoothing here and ignores it; this does not. Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a preference is the wrong way round (cDPO's eps)."""
    reference_free: bool = False
    """Take the reference to be uniform: no log-probabilities of one are read."""


def needs(config: Config) -> frozenset[str]:
    """No reference if it is taken to be uniform."""
    return NEEDS - {"reference"} if config.reference_free else NEEDS


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    ratio_N = _kernels.log_ratios(batch, reference=not config.reference_free)
    chosen_P, rejected_P = _kernels.of_pairs(batch, ratio_N)
    per_pair_P = _kernels.logistic(config.beta * (chosen_P - rejected_P), 1 - config.label_smoothing)
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
