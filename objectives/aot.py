"""AOT, Alignment via Optimal Transport: arXiv:2406.05882; TRL's `aot` (paired) and `aot_unpaired`.

Two samples are sorted over the whole step, and the k-th smallest of one is compared with the k-th smallest of the other:

    paired     log pi(chosen) - log pi(rejected)      against the same under the reference
    unpaired   the chosen's log-ratio                 against the rejected's
    L = sum_k -(1 - eps) log sig(beta delta_k) - eps log sig(-beta delta_k)      delta_k: the difference of the k-th

A pair's loss is that of its own first value against the one that has its place in the other sample. TRL sorts a rank's
micro-batch alone; this sorts all pairs of the optimizer step. Weights of pairs scale losses and do not move their places.
Units: nats. Default: beta 0.01 (TRL's paper index), unpaired. Unverified: nothing.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.01, gt=0)
    """Strength of the pull towards the reference."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a comparison is the wrong way round."""
    form: str = Field("unpaired", pattern="^(paired|unpaired)$")
    """Whether margins are compared with the reference's, or chosen responses with rejected ones."""


def gather(config: Config, batch: Batch) -> "dict[str, Tensor]":
    """The two values of each pair that are sorted, (P,) each."""
    first_P, second_P = _samples(config, batch)
    return {"first": first_P.detach(), "second": second_P.detach()}


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,), whose sum over the step has the value and the gradient of the sum over places."""
    from objectives import _kernels

    assert batch.whole_at_U is not None, "an objective that gathers is told where its units stand"
    first_P, second_P = _samples(config, batch)
    place_first_P, sorted_first = _places(batch.whole["first"], batch.whole_at_U)
    place_second_P, sorted_second = _places(batch.whole["second"], batch.whole_at_U)

    def compared(one: "Tensor", other: "Tensor") -> "Tensor":
        return _kernels.logistic(config.beta * (one - other), 1 - config.label_smoothing)

    per_pair_P = compared(first_P, sorted_second[place_first_P])
    if second_P.requires_grad:
        # The second value's partner is counted with its own pair: here only the gradient is added.
        partner_P = compared(sorted_first[place_second_P], second_P)
        per_pair_P = per_pair_P + partner_P - partner_P.detach()
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))


def _samples(config: Config, batch: Batch) -> "tuple[Tensor, Tensor]":
    """What is compared with what, (P,) each."""
    from objectives import _kernels

    if config.form == "unpaired":
        return _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    assert batch.ref_logps_NT is not None, "the objective declared that it needs a reference"
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, reference=False))
    ref_chosen_P, ref_rejected_P = _kernels.of_pairs(batch, _kernels.totals(batch.ref_logps_NT, batch.mask_NT))
    return chosen_P - rejected_P, ref_chosen_P - ref_rejected_P


def _places(whole_U: "Tensor", at_U: "Tensor") -> "tuple[Tensor, Tensor]":
    """The place of some of the values in the order of all, and all in order; equal values keep the order they came in."""
    import torch

    ordered, order = torch.sort(whole_U, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places[at_U], ordered
