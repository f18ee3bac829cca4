"""SFT, supervised fine-tuning: maximum likelihood of the responses (TRL's `sft` loss of chosen responses).

    nll                L = - (sum over all response tokens of the batch of log pi) / (number of those tokens)

The unit is the token: a long response weighs more than a short one. Over a table of pairs, the chosen responses
alone are read. Units: nats per token. Nothing unverified.

Experimental, with the reference's pull left in ("the implicit reward as a bridge", arXiv:2507.00018, whose own formulas could
not be read: these are this project's), per response, with t the mean over its tokens of log pi/pi_ref:

    pearson            L = -t + t^2 / 4
    hellinger          L = exp(-t)
    forward_kl_cap     L = -log sig(t)

They push a demonstration up like nll, and less the further it is above the reference. The paper's advice that needs no new
loss: a learning rate of a quarter of the usual one before preference optimization.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS: frozenset[str] = frozenset()
UNIT = "token"


class Config(Settings):
    divergence: str = Field("nll", pattern="^(nll|pearson|hellinger|forward_kl_cap)$")
    """Maximum likelihood, or an experimental loss that keeps the reference in sight."""


def needs(config: Config) -> frozenset[str]:
    """A reference for all but maximum likelihood."""
    return NEEDS if config.divergence == "nll" else NEEDS | {"reference"}


def unit(config: Config) -> str:
    """The response for all but maximum likelihood."""
    return UNIT if config.divergence == "nll" else "row"


def loss(config: Config, batch: Batch) -> Loss:
    """Per-token losses (N, T) of maximum likelihood, else per-response ones (N,)."""
    import torch

    from objectives import _kernels

    if config.divergence == "nll":
        return Loss(torch.where(batch.mask_NT, -batch.logps_NT, 0.0))
    t_N = _kernels.log_ratios(batch, mean=True)
    if config.divergence == "pearson":
        per_row_N = -t_N + t_N**2 / 4
    else:
        per_row_N = torch.exp(-t_N) if config.divergence == "hellinger" else _kernels.logistic(t_N)
    return Loss(per_row_N, {"logratio": t_N.detach()})
