"""RPO, Regularised Preference Optimization: arXiv:2405.16436; TRL's `sigmoid` and `sft` together. With weight 1, IRPO.

    L = -log sig(beta d) + eta NLL(chosen)

d is dpo.py's margin. The likelihood of the chosen responses keeps the policy from over-optimising where pairs are few;
on responses that the policy itself sampled it also sharpens the policy, so lower it over the rounds. IRPO
(arXiv:2404.19733) is `nll_weight: 1` and `nll_reduction: seq_mean`. Units: nats. Defaults: beta 0.01, eta 0.005, the mean
over all chosen tokens (the published run). Unverified: whether the theory's weight is eta or eta beta, and its reduction.
"""

from pydantic import Field

from objectives import Batch, Loss
from objectives._likelihood import Reduction
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.01, gt=0)
    """Strength of the pull towards the reference."""
    nll_weight: float = Field(0.005, ge=0)
    """Weight of the chosen response's negative log-likelihood (eta)."""
    nll_reduction: Reduction = "token_mean"
    """Mean over all chosen tokens, mean over each response's, or their sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels, _likelihood

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    per_pair_P = _kernels.logistic(config.beta * (chosen_P - rejected_P))
    return _likelihood.beside(batch, per_pair_P, _kernels.pair_terms(chosen_P, rejected_P), config.nll_weight, config.nll_reduction)
