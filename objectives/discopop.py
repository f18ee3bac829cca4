"""DiscoPOP, the log-ratio modulated loss that a language model found: arXiv:2406.08414, equation 5; TRL's `discopop`.

With d the margin as in dpo.py, z = beta d and k = sig(z / tau):

    L = -(1 - k) log sig(z) + k exp(-z)

Not convex: it has a hump near 0. The second term is computed as exp(log sig(z / tau) - z), whose exponent stops at 80:
the product of two factors is no number where z < -88 in float32. Units: nats. Defaults: beta 0.05, tau 0.05 (the paper).
Unverified: nothing.
"""

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
    beta: float = Field(0.05, gt=0)
    """Strength of the pull towards the reference."""
    tau: float = Field(0.05, gt=0)
    """How sharply the loss changes at 0 from the logistic to the exponential one."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _scores

    return _scores.margin_loss(config, batch, lambda margin_P: _modulated(config.beta * margin_P, config.tau))


def _modulated(z_P: "Tensor", tau: float) -> "Tensor":
    import torch
    from torch.nn.functional import logsigmoid

    from objectives import _kernels, _scores

    exponential_P = torch.exp((logsigmoid(z_P / tau) - z_P).clamp(max=_scores.HIGHEST))
    return torch.sigmoid(-z_P / tau) * _kernels.logistic(z_P) + exponential_P
