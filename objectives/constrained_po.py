"""CPO, Constrained Preference Optimization: arXiv:2605.20834; released code visitworld123/CPO@6a54cfd, cpo/trainer.py.

DPO asks the policy to prefer the chosen response by more than the reference does: where the reference prefers the
rejected one, the loss can fall while the policy still prefers it too. This lifts the margin aimed at. With X, Y the mean
log-probabilities of the tokens of the chosen and the rejected response under the reference, D the policy's difference
of such means and D_ref = X - Y the reference's:

    clip      L = -log sig(beta (D - max(0, D_ref)))
    softplus  L = -log sig(beta (D - D_ref - m / alpha)),    m = softplus(tau (gamma - D_ref)) / tau
    easy      L = -log sig(beta (D - D_ref) - gamma (1/X + 1/Y))

`softplus`, the paper's cpo, aims at about max(D_ref, gamma) if alpha is 1. In `easy` X and Y are below 0, so that its
term loosens the margin: it is the released code's, and the paper may mean the opposite. Units: nats per token. Defaults:
beta 0.1, gamma 0.5, tau 2, alpha 1 (the code's; its demo is `easy` with beta 2.5 and gamma 0.05). Unverified: `easy`
against the paper. Left out: the code's `rpo_alpha`.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"
LIKELIEST = -1e-6
"""1/X and 1/Y of `easy` have no bound as a reference becomes certain; they stop here."""


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Scale of differences of mean log-probabilities."""
    variant: Literal["clip", "softplus", "easy"] = "softplus"
    """How the margin aimed at depends on the reference."""
    gamma: float = Field(0.5, ge=0)
    """softplus: the margin, in nats per token, wanted whatever the reference prefers. easy: weight of its term."""
    tau: float = Field(2.0, gt=0)
    """softplus: how sharply it follows the larger of gamma and the reference's margin."""
    alpha: float = Field(1.0, gt=0)
    """softplus: divides what is added to the reference's margin."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the log-ratios logged are means over tokens."""
    from objectives import _kernels

    assert batch.ref_logps_NT is not None, "the objective declared that it needs a reference"
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.totals(batch.logps_NT, batch.mask_NT, mean=True))
    ref_chosen_P, ref_rejected_P = _kernels.of_pairs(batch, _kernels.totals(batch.ref_logps_NT, batch.mask_NT, mean=True))
    z_P = config.beta * (chosen_P - rejected_P) - _target(config, ref_chosen_P, ref_rejected_P)
    terms = _kernels.pair_terms(chosen_P - ref_chosen_P, rejected_P - ref_rejected_P)
    return Loss(_kernels.weighted(batch, _kernels.logistic(z_P)), terms)


def _target(config: Config, chosen_P: "Tensor", rejected_P: "Tensor") -> "Tensor":
    """What beta D is compared with, from the reference's mean log-probabilities."""
    from torch.nn.functional import softplus

    margin_P = chosen_P - rejected_P
    if config.variant == "clip":
        return config.beta * margin_P.clamp(min=0)
    if config.variant == "softplus":
        return config.beta * (margin_P + softplus(config.tau * (config.gamma - margin_P)) / config.tau / config.alpha)
    return config.beta * margin_P + config.gamma * (1 / chosen_P.clamp(max=LIKELIEST) + 1 / rejected_P.clamp(max=LIKELIEST))
