"""EVOLVE (formerly ARIES), preference training that learns to refine: arXiv:2502.05605.

DPO, and SRPO's loss of revising an answer that the prompt shows; k(a|b) is the log-ratio of answer a after answer b:

    L_ref = (1/2 - beta [k(w|l) - k(l|l)])^2 + (1/2 - beta [k(w|w) - k(l|w)])^2
    L     = -(1 - alpha) log sig(beta d) + alpha L_ref

The four extra responses of a pair are, in this order, w given l, l given w, w given w, l given l, each after the instruction
to refine; the answer shown is no part of the loss. The paper's first stage is `sft` on refinements.
Units: nats and squared probabilities mixed. Defaults: beta 0.1, alpha 0.8. Unverified: the loss and both defaults, which are
from memory of the paper; only that there are two stages of SFT and preference training, and three rounds, was confirmed.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "extra", "extra_reference"})
EXTRAS = 4
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    alpha: float = Field(0.8, ge=0, le=1)
    """Share of the loss of refining."""
    length_average: bool = False
    """Refinements' log-ratios as means over tokens; false: sums."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    refine_P, _, _ = _kernels.revision(batch, config.beta, mean=config.length_average)
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    per_pair_P = (1 - config.alpha) * _kernels.logistic(config.beta * (chosen_P - rejected_P)) + config.alpha * refine_P
    return Loss(_kernels.weighted(batch, per_pair_P), {**_kernels.pair_terms(chosen_P, rejected_P), "refine": refine_P.detach()})
