"""SLiC-HF, Sequence Likelihood Calibration: arXiv:2305.10425, equation 3; ContextualAI/HALOs@4831988.

With C and R the log-probabilities of the chosen and the rejected response, summed over tokens, and no reference:

    L = max(0, delta - C + R) + lambda NLL(chosen)

Units: nats. Defaults: delta 1, lambda 0.1, the NLL summed. Unverified: the paper draws the responses of its NLL from the
supervised data; HALOs takes the chosen ones, as here, and calls delta beta.
"""

from pydantic import Field

from objectives import Batch, Loss
from objectives._likelihood import Reduction
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs"})
UNIT = "pair"


class Config(Settings):
    delta: float = Field(1.0, gt=0)
    """The margin aimed at, in nats."""
    nll_weight: float = Field(0.1, ge=0)
    """Weight of the chosen response's negative log-likelihood (the paper's lambda)."""
    nll_reduction: Reduction = "seq_sum"
    """Mean over all chosen tokens, mean over each response's, or their sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the log-ratios logged are log-probabilities."""
    from objectives import _kernels, _likelihood

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, reference=False))
    per_pair_P = _kernels.hinge(chosen_P - rejected_P, config.delta)
    return _likelihood.beside(batch, per_pair_P, _kernels.pair_terms(chosen_P, rejected_P), config.nll_weight, config.nll_reduction)
