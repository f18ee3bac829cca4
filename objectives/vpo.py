"""VPO, Value-incentivised Preference Optimization: arXiv:2405.19320.

DPO, and optimism or pessimism about the value of the policy, by the log-ratio of a calibrating response c:

    online    L = -log sig(beta d) + alpha beta log pi(c)/pi_ref(c)      c: a sample of the reference (an extra response)
    offline   L = -log sig(beta d) - alpha beta log pi(c)/pi_ref(c)      c: the chosen response

Online it is SELM's formula; offline it is RPO with its NLL summed over the sequence and weighted alpha beta, up to a constant.
Units: nats; ln 2 before the first step. Default: beta 0.1. Unverified: the equations and every default; no value of alpha is
known (0.01 is this project's).
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "extra", "extra_reference"})
EXTRAS = 1
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    alpha: float = Field(0.01, ge=0)
    """Weight of the calibrating response's log-ratio, times beta."""
    form: str = Field("online", pattern="^(online|offline)$")
    """Optimism about an extra response, or pessimism: a pull towards the chosen one."""


def needs(config: Config) -> frozenset[str]:
    """No extra response in the offline form."""
    return NEEDS if config.form == "online" else NEEDS - {"extra", "extra_reference"}


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    value_P = _kernels.extra_log_ratios(batch) if config.form == "online" else -_kernels.of_pairs(batch, _kernels.log_ratios(batch))[0]
    return _kernels.dpo_plus(batch, config.beta, config.alpha * config.beta * value_P, "optimism")
