"""SimPO, Simple Preference Optimization: arXiv:2405.14734, equation 6; princeton-nlp/SimPO@1b3e8f3; TRL 1.16.0's CPO trainer, `simpo`.

With a_w, a_l the mean log-probabilities of the tokens of the chosen and the rejected response, and no reference:

    L = -(1 - eps) log sig(z) - eps log sig(-z),    z = beta (a_w - a_l) - gamma

gamma is given as its ratio to beta, as in the released settings: the margin aimed at, in nats per token (TRL's
`simpo_gamma` is gamma itself). Units: nats. Defaults: beta 2, ratio 0.25 (the released trainer's; its recipes have beta
2 to 10 and ratios 0.1 to 0.8). More than an epoch, or a high learning rate, collapses. Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(2.0, gt=0)
    """Scale of the difference of mean log-probabilities; some 50 times that of objectives of sums."""
    gamma_beta_ratio: float = Field(0.25, ge=0)
    """The margin aimed at, in nats per token."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a preference is the wrong way round."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the log-ratios logged are mean log-probabilities."""
    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, mean=True, reference=False))
    z_P = config.beta * (chosen_P - rejected_P - config.gamma_beta_ratio)
    per_pair_P = _kernels.logistic(z_P, 1 - config.label_smoothing)
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
