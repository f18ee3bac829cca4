"""INPO, Iterative Nash Policy Optimization: arXiv:2407.00617, equation 8; code of yale-nlp/COMAL@30e9446, losses.py `nash_loss`.

With D_q = log q(chosen) - log q(rejected), summed over response tokens, the reference, and pi_t that made the data:

    h = D_pi - (tau/eta) D_ref - (1 - tau/eta) D_{pi_t}
    L = (h - 1/(2 eta))^2

eta divides the preference: the smaller, the larger the step (SPPO's eta multiplies it). tau = eta is IPO against the
reference (its beta is eta), tau = 0 leaves the reference out. The first history is pi_t.
Units: nats squared; about 10^4 at the defaults. Defaults: eta 0.005, tau eta/3. With best and worst of many samples as the
pair, the paper's proof does not hold; its authors do so all the same. Unverified: an official code (none was found).
"""

from pydantic import Field, model_validator

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "history"})
UNIT = "pair"


class Config(Settings):
    eta: float = Field(0.005, gt=0)
    """One over the step size: the margin aimed at is 1/(2 eta)."""
    tau: float | None = Field(None, ge=0)
    """Strength of the pull towards the reference, at most eta; none: eta/3."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.tau is not None and self.tau > self.eta:
            raise ValueError(f"tau {self.tau} is above eta {self.eta}, which gives pi_t a negative weight; set tau to eta at most")
        return self


def beta(config: Config) -> float:
    """Of the implied reward: eta, as of IPO."""
    return config.eta


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    assert batch.ref_logps_NT is not None and batch.history_HNT is not None, "declared needs"
    share = 1 / 3 if config.tau is None else config.tau / config.eta
    gap_P = _kernels.gap(batch, [(share, batch.ref_logps_NT), (1 - share, batch.history_HNT[0])])
    return _kernels.regression(batch, gap_P, 1 / (2 * config.eta))
