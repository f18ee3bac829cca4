"""The likelihood of the chosen response, as a term beside the loss of a pair: -log pi of its tokens, reduced in three ways."""

from typing import TYPE_CHECKING, Literal

from objectives import Batch, Loss

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["token_mean", "seq_mean", "seq_sum"]
"""token_mean: over all chosen tokens of the step, so that long responses weigh more (TRL's `sft`). seq_mean: over the
tokens of each response. seq_sum: no mean over tokens; a weight that suits a mean is then some hundred times too strong."""


def beside(batch: Batch, per_pair_P: "Tensor", terms: "dict[str, Tensor]", weight: float, reduction: Reduction) -> Loss:
    """The losses of the pairs (P,), not yet times the pairs' weights, and `weight` times the likelihood term.

    The term is logged as `nll`, in nats per token of each chosen response, whatever its reduction.
    """
    from objectives import _kernels

    if weight == 0:
        return Loss(_kernels.weighted(batch, per_pair_P), terms)
    mean_P, _ = _kernels.of_pairs(batch, _kernels.totals(-batch.logps_NT, batch.mask_NT, mean=True))
    terms = terms | {"nll": mean_P.detach()}
    if reduction == "token_mean":
        return Loss(_kernels.weighted(batch, per_pair_P), terms, _kernels.chosen_nll(batch, weight))
    sum_P, _ = _kernels.of_pairs(batch, _kernels.totals(-batch.logps_NT, batch.mask_NT))
    return Loss(_kernels.weighted(batch, per_pair_P + weight * (mean_P if reduction == "seq_mean" else sum_P)), terms)
