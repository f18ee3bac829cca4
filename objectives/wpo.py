"""WPO, Weighted Preference Optimization: arXiv:2406.11827; TRL's `use_weighting`.

DPO whose pairs weigh more the likelier the policy is to have written them itself, without gradient:

    L = -W log sig(beta d)      W = exp(m_w + m_l)      m_y = mean over tokens of log pi(y_t) - log sum_v pi(v)^2

so that a token as likely as the policy's tokens are on average counts 1. The paper's code and TRL up to 0.28 clamp W at 1;
TRL 1.16 does not (`clamp: null`). The losses are divided by the number of pairs, not by the sum of W.
Units: nats. Default: beta 0.01, clamped at 1. Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "log_sum_sq"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.01, gt=0)
    """Strength of the pull towards the reference."""
    clamp: float | None = Field(1.0, gt=0)
    """The largest weight; none: any."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    assert batch.log_sum_sq_NT is not None, "the objective declared that it needs log_sum_sq"
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    likely_NT = batch.logps_NT.detach() - batch.log_sum_sq_NT.detach()
    likely_w_P, likely_l_P = _kernels.of_pairs(batch, _kernels.totals(likely_NT, batch.mask_NT, mean=True))
    weight_P = (likely_w_P + likely_l_P).exp()
    if config.clamp is not None:
        weight_P = weight_P.clamp(max=config.clamp)
    per_pair_P = weight_P * _kernels.logistic(config.beta * (chosen_P - rejected_P))
    return Loss(_kernels.weighted(batch, per_pair_P), {**_kernels.pair_terms(chosen_P, rejected_P), "on_policy_weight": weight_P})
