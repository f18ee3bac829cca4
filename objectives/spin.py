"""SPIN, Self-Play Fine-Tuning: arXiv:2401.01335, equation 4.7; released code uclaml/SPIN@a12ba80, spin/alignment/trainer.py.

The chosen response is a demonstration, the rejected one the previous policy's own sample, and the reference that
previous policy, the opponent. With d the margin as in dpo.py:

    sigmoid  L = -log sig(beta d)          dpo.py's loss
    hinge    L = max(0, 1 - beta d)        hinge.py's loss

What makes it SPIN is the recipe. It ends when the samples are as good as the demonstrations: the margin is then 0 and
the loss ln 2. Units: nats (sigmoid). Default: beta 0.1, sigmoid (the code). Unverified: nothing.
"""

from typing import Literal

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the opponent (the paper's lambda)."""
    form: Literal["sigmoid", "hinge"] = "sigmoid"
    """The decreasing function of the margin."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    z_P = config.beta * (chosen_P - rejected_P)
    per_pair_P = _kernels.hinge(z_P) if config.form == "hinge" else _kernels.logistic(z_P)
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
