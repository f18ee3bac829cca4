"""rDPO, robust DPO: arXiv:2403.00409 ("Provably Robust DPO"); TRL's `robust`.

With d the margin as in dpo.py and eps the probability that a label is flipped:

    L = [-(1 - eps) log sig(beta d) + eps log sig(-beta d)] / (1 - 2 eps)

which is DPO's loss on clean labels in expectation over symmetric flips, and DPO at eps 0. It may be negative, and it has
no lower bound: it tends to -eps beta d / (1 - 2 eps), so that larger margins always pay; stop early. It is `logistic`
with a label above one, (1 - eps)/(1 - 2 eps). Units: nats. Defaults: beta 0.1, eps 0.1 (the paper). Unverified: nothing.
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
    label_smoothing: float = Field(0.1, ge=0, lt=0.5)
    """Probability that a preference is the wrong way round; 0 is DPO."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,), of either sign."""
    from objectives import _kernels, _scores

    label = (1 - config.label_smoothing) / (1 - 2 * config.label_smoothing)
    return _scores.margin_loss(config, batch, lambda margin_P: _kernels.logistic(config.beta * margin_P, label))
