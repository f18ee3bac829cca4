"""KTO, Kahneman-Tversky Optimization: arXiv:2402.01306; TRL 1.16.0, kto_trainer.py; ContextualAI/HALOs@4831988.

Single responses, good or bad, with their summed log-ratio r against the reference, and a baseline z: the mean over the
whole step of the log-ratios of mismatched responses, at least 0, without gradient:

    desirable     L = w_d (1 - sig(beta (r - z)))
    undesirable   L = w_u (1 - sig(beta (z - r)))

The extra response of a unit is another prompt's response after this unit's prompt. The mean of the losses is over the
responses, not over the weights. Weights should make w_d n_d / (w_u n_u) lie between 1 and 4/3.
Units: none; the loss lies between 0 and the weight. Defaults: beta 0.1, weights 1. TRL takes z over a rank's micro-batch and
averages over ranks; this takes it over all units of the optimizer step. Unverified: nothing.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"desirable", "reference", "extra", "extra_reference"})
EXTRAS = 1
GATHERS = "extra"
UNIT = "row"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    desirable_weight: float = Field(1.0, ge=0)
    """Weight of good responses (the paper's lambda_D)."""
    undesirable_weight: float = Field(1.0, ge=0)
    """Weight of bad responses (lambda_U)."""


def gather(config: Config, batch: Batch) -> "dict[str, Tensor]":
    """The log-ratio of each unit's mismatched response (U,)."""
    from objectives import _kernels

    return {"mismatched": _kernels.extra_log_ratios(batch).detach()}


def loss(config: Config, batch: Batch) -> Loss:
    """Per-response losses (N,)."""
    import torch

    from objectives import _kernels

    assert batch.desirable_N is not None, "the objective declared that it needs labels"
    ratio_N = _kernels.log_ratios(batch)
    baseline = batch.whole["mismatched"].mean().clamp(min=0)
    z_N = config.beta * (ratio_N - baseline)
    # 1 - sig(z) = sig(-z), which keeps its digits where sig(z) is nearly 1.
    good_N, bad_N = config.desirable_weight * torch.sigmoid(-z_N), config.undesirable_weight * torch.sigmoid(z_N)
    terms = {"logratio": ratio_N.detach(), "baseline": baseline.expand_as(ratio_N)}
    return Loss(torch.where(batch.desirable_N, good_N, bad_N), terms)
