"""POWER, preference optimisation with weighted entropy robust rewards: arXiv:2412.09544.

With C and R the summed log-probabilities of the chosen and the rejected response, no reference, and w = 1/length:

    z = beta (w_w C - w_l R + w_w - w_l)
    L = -log sig(z) - eta beta w_w C

that is, SimPO with a margin that depends on the lengths, and a likelihood term per token against overrating responses
that the data covers badly. Units: nats. Defaults: beta 2, eta 0.001 (from memory, of ranges 1 to 10 and 0.0005 to
0.01). Unverified: all of it. No code was found and the text was not to be had; the equation is derived from the stated
objective, so the sign of w_w - w_l and whether eta multiplies beta want checking. Labels that move are power_dl's.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"pairs"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(2.0, gt=0)
    """Weight of the entropy: scale of the differences of mean log-probabilities."""
    eta: float = Field(1e-3, ge=0)
    """Weight, times beta, of the chosen response's negative log-likelihood per token."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the log-ratios logged are mean log-probabilities."""
    from objectives import _kernels

    z_P, chosen_P, rejected_P = scores(config, batch)
    per_pair_P = _kernels.logistic(z_P) - config.eta * config.beta * chosen_P
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))


def scores(config: Config, batch: Batch) -> "tuple[Tensor, Tensor, Tensor]":
    """z of each pair, and the mean log-probabilities of the tokens of its chosen and its rejected response, (P,) each."""
    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, mean=True, reference=False))
    weight_w_P, weight_l_P = _kernels.of_pairs(batch, 1 / batch.mask_NT.sum(-1).clamp(min=1).to(chosen_P.dtype))
    return config.beta * (chosen_P - rejected_P + weight_w_P - weight_l_P), chosen_P, rejected_P
