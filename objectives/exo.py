"""EXO, Efficient Exact Optimization, over pairs: arXiv:2402.00856, equation 16; TRL's `exo_pair`.

With d the margin as in dpo.py and q = sig(beta d), the reverse KL from the policy's preference to the smoothed label:

    L = q [log q - log(1 - eps)] + (1 - q) [log(1 - q) - log eps]

The gradient vanishes where the policy is surely wrong (q near 0). Units: nats. Defaults: beta 0.1, eps 0.001 (the
paper). eps cannot be 0; TRL up to 0.11 takes 0 to mean 0.001, and later refuses it. Unverified: nothing.
"""

import math
from typing import TYPE_CHECKING

from pydantic import Field

from objectives import Batch, Loss
from objectives._scores import Scores

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Scores):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    label_smoothing: float = Field(1e-3, gt=0, lt=0.5)
    """The label's probability of the rejected response."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _scores

    return _scores.margin_loss(config, batch, lambda margin_P: _reverse_kl(config.beta * margin_P, config.label_smoothing))


def _reverse_kl(z_P: "Tensor", smoothing: float) -> "Tensor":
    """KL of (sig(z), sig(-z)) from (1 - smoothing, smoothing)."""
    import torch
    from torch.nn.functional import logsigmoid

    chosen_P = torch.sigmoid(z_P) * (logsigmoid(z_P) - math.log1p(-smoothing))
    return chosen_P + torch.sigmoid(-z_P) * (logsigmoid(-z_P) - math.log(smoothing))
