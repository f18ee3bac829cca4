"""EGPO, Extragradient Preference Optimization, one half-step: arXiv:2503.08942; zhourunlong/EGPO@f295bf3, extragradient_trainer.py:526.

With D_q = log q(y) - log q(y') and each response's probability p of beating a sample of the opponent:

    L = (D_pi - D_ref - (p_y - p_y') / beta)^2

which is online IPO too: the pair need not be sorted, as both factors change their sign with it. The two half-steps of EGPO
differ in the opponent alone (pi_t, then pi_{t+1/2}) and both start from theta_t with its optimizer state: that is a
matter of the recipe. D is a mean over tokens in the released code; then a margin of 1/beta is far away.
Units: nats squared. Default: beta 0.1 over means. Unverified: the paper's wording (the update rules agree with the code).
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "win_rates"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    length_average: bool = True
    """Mean over response tokens; false: sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    assert batch.ref_logps_NT is not None and batch.win_rate_N is not None, "declared needs"
    win_P, lose_P = _kernels.of_pairs(batch, batch.win_rate_N)
    gap_P = _kernels.gap(batch, [(1.0, batch.ref_logps_NT)], mean=config.length_average)
    return _kernels.regression(batch, gap_P, (win_P - lose_P) / config.beta, mean=config.length_average)
