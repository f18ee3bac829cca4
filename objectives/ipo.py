"""IPO, Identity Preference Optimization: arXiv:2310.12036, equation 17; TRL's `ipo`.

With u, v the log-ratios of the chosen and the rejected response against the reference:

    L = (u - v - 1 / (2 beta))^2

u and v are means over tokens (TRL and HALOs; TRL says that the authors confirmed it), or sums as the paper writes
them. beta is the paper's tau. The target is 1/(2 beta) nats: 5 at 0.1, and 50 at 0.01, which token means cannot reach.
Units: nats squared. Default: beta 0.1 over means. Unverified: the authors' word.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """The paper's tau: the margin aimed at is 1/(2 beta)."""
    length_average: bool = True
    """Mean over response tokens; false: sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the logged log-ratios are sums or means as the loss has them."""
    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, mean=config.length_average))
    per_pair_P = _kernels.squared(chosen_P - rejected_P, 1 / (2 * config.beta))
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
