"""OSP's soft-preference cross-entropy, Online Self-Preferring: arXiv:2405.14103.

With d the summed log-ratios' margin as in dpo.py and p the judge's P(chosen beats rejected), the pair's label:

    L = -p log sig(beta d) - (1 - p) log sig(-beta d)

The gradient is in proportion to sig(beta d) - p: it vanishes once the policy prefers the chosen response as strongly as
the judge does. p = 1 is DPO, p = 1 - eps cDPO; it is dpo.py with `soft_labels`. Units: nats. Default: beta 0.1.
Unverified: the paper's beta; its text was not to be had, and the loss follows from its name and others' summaries.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    per_pair_P = _kernels.logistic(config.beta * (chosen_P - rejected_P), _kernels.labels(batch, soft=True))
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
