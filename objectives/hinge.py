"""Hinge loss against a reference, as RSO has it: arXiv:2309.06657, section 3.3; TRL's `hinge`.

With d the margin as in dpo.py:

    L = max(0, 1 - beta d)

No gradient once the margin is 1/beta nats. SLiC proper has no reference: see slic.py. Units: none. Default: beta 0.05
(RSO; TRL has 0.1). Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from objectives._scores import Scores

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Scores):
    beta: float = Field(0.05, gt=0)
    """The margin aimed at is 1/beta."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels, _scores

    return _scores.margin_loss(config, batch, lambda margin_P: _kernels.hinge(config.beta * margin_P))
