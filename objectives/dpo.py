"""DPO, Direct Preference Optimization: arXiv:2305.18290, equation 7; TRL's `sigmoid`. With label smoothing, cDPO.

With d = (log-ratio of chosen) - (log-ratio of rejected), summed over response tokens, against the reference, and the
label p = 1, or the judge's P(chosen beats rejected) with `soft_labels`, mixed with its opposite by eps:

    L = -p log sig(beta d) - (1 - p) log sig(-beta d)

The settings of `_scores.py` change d: LD-DPO, f-DPO, DPO^gamma, and the mean over tokens that Tulu 3 (arXiv:2411.15124)
trains with at beta 5. Units: nats. ln 2 before the first step. Defaults: beta 0.1 (the paper); iterative recipes usually
take 0.01. TRL since 0.29 accepts label smoothing here and ignores it; this does not. Unverified: DPO^gamma's equation.
"""

from pydantic import Field

from objectives import Batch, Loss
from objectives._scores import Scores

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Scores):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a preference is the wrong way round (cDPO's eps)."""
    soft_labels: bool = False
    """Aim at the judge's probability that the chosen response is better, not at certainty."""
    reference_free: bool = False
    """Take the reference to be uniform: no log-probabilities of one are read."""


def needs(config: Config) -> frozenset[str]:
    """No reference if it is taken to be uniform, or has no weight."""
    return NEEDS - {"reference"} if config.reference_free or not config.reference_scale else NEEDS


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels, _scores

    label = _kernels.labels(batch, config.label_smoothing, soft=config.soft_labels)
    return _scores.margin_loss(
        config, batch, lambda margin_P: _kernels.logistic(config.beta * margin_P, label), reference=not config.reference_free
    )
