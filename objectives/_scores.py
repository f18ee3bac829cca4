"""What the losses of a margin have in common: how each response's tokens become one score, and the loss of their difference.

With t the log-ratio of a response, its score is h(t), the margin d = h(t of chosen) - h(t of rejected). Before h, the
tokens beyond the shorter of the two responses may count less (LD-DPO, arXiv:2409.06411) and so may the reference
(DPO^gamma, arXiv:2405.19534); h comes from the divergence that holds the policy at the reference (f-DPO,
arXiv:2309.16240); after it, the score may be divided by the response's length. The order of these is TRL's.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST = 80.0
"""The exponents of divergences stop here: e^80 is a number in float32, and beta times the square of it need not be."""


class Scores(Settings):
    """The settings of every objective that sees a pair only through the margin d of its scores."""

    length_average: bool = False
    """Divide each score by the response's tokens (TRL's `sigmoid_norm`); the beta that fits is some 50 times larger."""
    ld_alpha: float | None = Field(None, ge=0, le=1)
    """Weight of the tokens beyond the length of the shorter response, in policy and reference (LD-DPO); 0.5 is usual."""
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
    """From the reference to the policy: h(t) = t, 1 - e^-t, log 2 + log sig(t), or (e^((a-1)t) - 1)/(a - 1)."""
    divergence_alpha: float = 0.5
    """a of the alpha divergence, as TRL from 0.29 on has it; 1 is the reverse KL."""
    reference_scale: float = Field(1.0, ge=0, le=1)
    """Weight of the reference's log-probabilities (the gamma of DPO^gamma): 1 is DPO, 0 reads no reference."""


def margin_loss(config: Scores, batch: Batch, loss_of: "Callable[[Tensor], Tensor]", *, reference: bool = True) -> Loss:
    """`loss_of` the margin of each pair (P,), times the pairs' weights; the log-ratios logged are the scores."""
    from objectives import _kernels

    chosen_P, rejected_P = scores(config, batch, reference=reference)
    return Loss(_kernels.weighted(batch, loss_of(chosen_P - rejected_P)), _kernels.pair_terms(chosen_P, rejected_P))


def scores(config: Scores, batch: Batch, *, reference: bool = True) -> "tuple[Tensor, Tensor]":
    """Scores of the chosen and of the rejected response of each pair, (P,) each."""
    import torch

    from objectives import _kernels

    ratios_NT = batch.logps_NT
    if reference and config.reference_scale:
        assert batch.ref_logps_NT is not None, "the objective declared that it needs a reference"
        ratios_NT = ratios_NT - config.reference_scale * batch.ref_logps_NT
    lengths_N = batch.mask_NT.sum(-1)
    if config.ld_alpha is None:
        ratios = _kernels.of_pairs(batch, _kernels.totals(ratios_NT, batch.mask_NT))
    else:
        shared_P = torch.minimum(*_kernels.of_pairs(batch, lengths_N))
        sides = zip(_kernels.of_pairs(batch, ratios_NT), _kernels.of_pairs(batch, batch.mask_NT), strict=True)
        ratios = tuple(_less_beyond(shared_P, config.ld_alpha, ratios_PT, mask_PT) for ratios_PT, mask_PT in sides)
    chosen_P, rejected_P = (_divergence(config, ratio_P) for ratio_P in ratios)
    if not config.length_average:
        return chosen_P, rejected_P
    chosen_lengths_P, rejected_lengths_P = _kernels.of_pairs(batch, lengths_N.clamp(min=1))
    return chosen_P / chosen_lengths_P, rejected_P / rejected_lengths_P


def _less_beyond(shared_P: "Tensor", alpha: float, ratios_PT: "Tensor", mask_PT: "Tensor") -> "Tensor":
    """Sum of the first `shared` response tokens of each row and of alpha times the others (P,)."""
    import torch

    from objectives import _kernels

    return _kernels.totals(torch.where(mask_PT.cumsum(-1) <= shared_P[:, None], ratios_PT, alpha * ratios_PT), mask_PT)


def _divergence(config: Scores, ratio_P: "Tensor") -> "Tensor":
    """h of the log-ratios."""
    import torch
    from torch.nn.functional import logsigmoid

    if config.divergence == "forward_kl":
        return 1 - torch.exp((-ratio_P).clamp(max=HIGHEST))
    if config.divergence == "js":
        return math.log(2) + logsigmoid(ratio_P)
    power = config.divergence_alpha - 1
    if config.divergence == "reverse_kl" or abs(power) < 1e-6:
        return ratio_P
    return torch.expm1((power * ratio_P).clamp(max=HIGHEST)) / power
