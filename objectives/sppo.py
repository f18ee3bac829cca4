"""SPPO, Self-Play Preference Optimization: arXiv:2405.00675; released code uclaml/SPPO@5e61c4e, sppo/trainer.py:876-883.

With w, l the summed log-ratios of the chosen and the rejected response against the policy that made them,
eta = 1/beta, and win rates p against samples of that policy:

    soft    L = 1/2 [(w - eta (p_w - 1/2))^2 + (l - eta (p_l - 1/2))^2]
    single  L = 1/2 [(w - eta (p - 1/2))^2 + (l + eta (p - 1/2))^2]        p = P(chosen beats rejected)
    hard    L =     [(w - eta / 2)^2       + (l + eta / 2)^2]              TRL's `sppo_hard`, with no factor 1/2

so that `hard` is twice `soft` at p_w = 1, p_l = 0. Units: nats; the loss is about (eta (p - 1/2))^2, 10^4 to 10^5
at the defaults, which `scaled_loss` (times beta^2) brings back to the scale of probabilities. Unverified: that the
constant eta/2 stands for log Z in the paper's wording (the released code's targets agree with it).
"""

from typing import TYPE_CHECKING

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "win_rates"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.001, gt=0)
    """1/eta: the smaller, the larger the step. Not on the scale of DPO's beta."""
    form: str = Field("soft", pattern="^(soft|single|hard)$")
    """What the targets come from: each response's win rate, the pair's label, or nothing (1 and 0)."""


def needs(config: Config) -> frozenset[str]:
    """Win rates only in the soft form."""
    return NEEDS if config.form == "soft" else NEEDS - {"win_rates"}


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the gradients of chosen and rejected do not depend on each other."""
    from objectives import _kernels

    eta = 1 / config.beta
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    target_w, target_l = _targets(config, batch)
    per_pair_P = _kernels.squared(chosen_P, eta * target_w) + _kernels.squared(rejected_P, eta * target_l)
    if config.form != "hard":
        per_pair_P = per_pair_P / 2
    terms = {**_kernels.pair_terms(chosen_P, rejected_P), "scaled_loss": per_pair_P.detach() * config.beta**2}
    return Loss(_kernels.weighted(batch, per_pair_P), terms)


def _targets(config: Config, batch: Batch) -> "tuple[Tensor | float, Tensor | float]":
    """Win rates less one half, of the chosen and the rejected."""
    from objectives import _kernels

    if config.form == "hard":
        return 0.5, -0.5
    if config.form == "single":
        assert batch.pair_label_P is not None, "a batch of pairs has labels"
        return batch.pair_label_P - 0.5, 0.5 - batch.pair_label_P
    assert batch.win_rate_N is not None, "the objective declared that it needs win rates"
    win_P, lose_P = _kernels.of_pairs(batch, batch.win_rate_N)
    return win_P - 0.5, lose_P - 0.5
