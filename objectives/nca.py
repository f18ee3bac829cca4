"""NCA, Noise Contrastive Alignment, over pairs: arXiv:2402.05369; TRL's `nca_pair`.

With u, v the summed log-ratios of the chosen and the rejected response against the reference:

    L = -log sig(beta u) - 1/2 log sig(-beta u) - 1/2 log sig(-beta v)

It holds each log-ratio in its place and not only their difference, so that the chosen response does not become less
likely. Units: nats; 2 ln 2 before the first step. Default: beta 0.01 (the paper). Unverified: nothing of pairs; the form
for many ranked responses is not here.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.01, gt=0)
    """Strength of the pull towards the reference."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    u_P, v_P = config.beta * chosen_P, config.beta * rejected_P
    per_pair_P = _kernels.logistic(u_P) + (_kernels.logistic(u_P, 0.0) + _kernels.logistic(v_P, 0.0)) / 2
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
