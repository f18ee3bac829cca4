"""APO-down, Anchored Preference Optimization: arXiv:2408.06266, equation 8; TRL's `apo_down`.

With u, v the summed log-ratios of the chosen and the rejected response against the reference:

    L = sig(beta u) + 1 - sig(beta (u - v))

For pairs of which both responses are worse than what the model usually says: the chosen becomes less likely, and the
rejected stays behind it. Units: none; between 0 and 2, with vanishing gradients at both ends. Default: beta 0.1. Unverified: nothing.
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
    import torch

    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    per_pair_P = torch.sigmoid(config.beta * chosen_P) + torch.sigmoid(-config.beta * (chosen_P - rejected_P))
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
