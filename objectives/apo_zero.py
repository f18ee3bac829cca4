"""APO-zero, Anchored Preference Optimization: arXiv:2408.06266, equation 7; TRL's `apo_zero` and `apo_zero_unpaired`.

With u, v the summed log-ratios of the chosen and the rejected response against the reference:

    L = 1 - sig(beta u) + sig(beta v)

For chosen responses that are better than what the model usually says: they become likelier, the rejected less likely.
Single rows have one half of it each: 1 - sig(beta u) if good, sig(beta u) if bad. Not Accelerated PO, which extrapolates
between rounds. Units: none; between 0 and 2, with vanishing gradients at both ends. Default: beta 0.1. Unverified: nothing.
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
    unpaired: bool = False
    """Read single good and bad responses instead of pairs."""


def needs(config: Config) -> frozenset[str]:
    """Pairs, or good and bad rows."""
    return frozenset({"desirable", "reference"}) if config.unpaired else NEEDS


def unit(config: Config) -> str:
    """Pairs, or rows."""
    return "row" if config.unpaired else UNIT


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,), or per-row losses (N,)."""
    import torch

    from objectives import _kernels

    ratio_N = _kernels.log_ratios(batch)
    if config.unpaired:
        assert batch.desirable_N is not None, "the objective declared that it needs good and bad responses"
        towards_N = torch.where(batch.desirable_N, -ratio_N, ratio_N)
        return Loss(torch.sigmoid(config.beta * towards_N), {"logratio": ratio_N.detach()})
    chosen_P, rejected_P = _kernels.of_pairs(batch, ratio_N)
    per_pair_P = torch.sigmoid(-config.beta * chosen_P) + torch.sigmoid(config.beta * rejected_P)
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
