"""XPO, Exploratory Preference Optimization: arXiv:2405.21046; huggingface/trl@f2cd577.

There it is trl/experimental/xpo/xpo_trainer.py:305-343 (1.10.0.dev0; TRL 1.16.0 has it no more).

A pair of a sample of the policy and one of the reference, ordered by a judge, and optimism about the reference's sample r,
whichever way it was judged:

    L = -log sig(beta d) + alpha log pi(r)            or, with `base: ipo`, (d - 1/(2 beta))^2 + alpha log pi(r)

The bonus has neither beta nor the reference in it: its gradient is online VPO's at alpha/beta. The extra response is r.
Units: nats. Defaults: beta 0.1, alpha 1e-5 (TRL's). Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "extra"})
EXTRAS = 1
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    alpha: float = Field(1e-5, ge=0)
    """Optimism: weight of the extra response's log-probability."""
    base: str = Field("sigmoid", pattern="^(sigmoid|ipo)$")
    """The loss of the pair."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    optimism_P = config.alpha * _kernels.extra_log_ratios(batch, reference=False)
    if config.base == "sigmoid":
        return _kernels.dpo_plus(batch, config.beta, optimism_P, "optimism")
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    per_pair_P = _kernels.squared(chosen_P - rejected_P, 1 / (2 * config.beta)) + optimism_P
    return Loss(_kernels.weighted(batch, per_pair_P), {**_kernels.pair_terms(chosen_P, rejected_P), "optimism": optimism_P.detach()})
