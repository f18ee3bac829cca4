"""Lays the inputs of golden vectors out as batches, and compares what an objective makes of them.

Legend: N responses, T tokens, P pairs, U units.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import objectives
from objectives import Batch
from pipeline import plugin
from pipeline.plugin import Choice
from tests.golden.compare import Vector, numbers, same, zeros


@dataclass
class Inputs:
    """A vector's inputs as tensors; the leaves among them get gradients."""

    vector: Vector
    dtype: torch.dtype
    leaves: dict[str, Tensor | list[Tensor]] = field(default_factory=dict)

    def fixed(self, name: str) -> Tensor:
        return torch.tensor(self.vector["inputs"][name], dtype=self.dtype)

    def leaf(self, name: str) -> Tensor:
        if name not in self.leaves:
            self.leaves[name] = self.fixed(name).requires_grad_()
        return self.leaves[name]  # type: ignore[return-value]

    def ragged(self, *names: str, grad: bool = False) -> Tensor:
        """Rows of different lengths, one input after the other, padded with 0 (N, T)."""
        rows: list[Tensor] = []
        for name in names:
            found = [torch.tensor(row, dtype=self.dtype, requires_grad=grad) for row in self.vector["inputs"][name]]
            rows += found
            if grad:
                self.leaves[name] = found
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def pairs(self, policy: tuple[str, str], *others: tuple[str, str]) -> Batch:
        """Pairs of which sums are given: the policy's, the reference's and the history's, chosen and rejected."""
        mask_NT = mask(self.lengths(*policy))
        logps_NT = spread(torch.cat([self.leaf(name) for name in policy]), mask_NT)
        known = [spread(torch.cat([self.fixed(name) for name in two]), mask_NT) for two in others]
        return paired(logps_NT, mask_NT, known)

    def lengths(self, *names: str) -> list[int]:
        """Of the chosen, then the rejected; 2 where the vector has none."""
        given, found = self.vector["inputs"], list[int]()
        for name, side in zip(names, ("chosen", "rejected"), strict=True):
            found += given.get(f"{side}_lengths", [2] * len(given[name]))
        return found


def paired(logps_NT: Tensor, mask_NT: Tensor, known: list[Tensor]) -> Batch:
    """The first half of the rows chosen, the second rejected; of the known log-probabilities the reference's first."""
    count = len(logps_NT) // 2
    return Batch(
        logps_NT=logps_NT,
        mask_NT=mask_NT,
        ref_logps_NT=known[0] if known else None,
        history_HNT=torch.stack(known[1:]) if len(known) > 1 else None,
        pair_w_P=torch.arange(count),
        pair_l_P=torch.arange(count) + count,
        pair_label_P=torch.ones(count, dtype=logps_NT.dtype),
        pair_weight_P=torch.ones(count, dtype=logps_NT.dtype),
    )


def mask(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def spread(total_N: Tensor, mask_NT: Tensor) -> Tensor:
    """Sums over tokens as tokens: all of it in the first, which is as good as any other split."""
    return torch.nn.functional.pad(total_N[:, None], (0, mask_NT.shape[1] - 1))


def extra(total_U: Tensor, ref_U: Tensor | None = None) -> objectives.ExtraResponses:
    """An extra response of each unit of which the sum over tokens is given."""
    return objectives.ExtraResponses(
        total_U[:, None], torch.ones(len(total_U), 1, dtype=torch.bool), None if ref_U is None else ref_U.to(total_U.dtype)[:, None]
    )


def whole(choice: Choice, batch: Batch) -> Batch:
    """The batch as the whole step: with what its objective gathers, in the order of its units."""
    if not hasattr(choice.module, "gather"):
        return batch
    gathered = choice.module.gather(choice.config, batch)
    count = len(next(iter(gathered.values())))
    return replace(batch, whole=gathered, whole_at_U=torch.arange(count))


def losses(choice: Choice, batch: Batch) -> tuple[Tensor, Tensor]:
    """Per-unit losses, and the loss of the step: their mean over the units, and that of a further loss over chosen tokens."""
    batch = whole(choice, batch)
    loss = choice.module.loss(choice.config, batch)
    count = int(batch.mask_NT.sum()) if objectives.unit(choice) == "token" else len(loss.per_unit)
    mean = loss.per_unit.sum() / count
    if loss.per_chosen_token_PT is not None:
        mean = mean + loss.per_chosen_token_PT.sum() / batch.mask_NT[batch.pair_w_P].sum()
    return loss.per_unit, mean


def check(
    inputs: Inputs, dtype: str, batch: Batch, kind: str, /, per_unit: Any = None, precision: str | None = None, **settings: Any
) -> None:
    """Loss, per-unit losses and gradients of the leaves. `precision`: that of the vector's own numbers, if it is less."""
    vector = inputs.vector
    choice = plugin.parse("objectives", {"kind": kind, **settings})
    found, mean = losses(choice, batch)
    mean.backward()
    scale = max([1.0, *(abs(value) for value in numbers(vector["inputs"]))])
    precise = precision or dtype
    if precise != dtype:  # our numbers are exact, and theirs are rounded by themselves: no room is left for our inputs' rounding
        scale = 0.0
    whole_loss = vector.get("expected_loss")
    expected = vector.get("expected_per_example_loss", vector.get("expected_loss_per_example", per_unit))
    if isinstance(whole_loss, dict):
        whole_loss, expected = whole_loss.get("mean"), whole_loss.get("per_example", expected)
    if whole_loss is not None:
        same("loss", mean.item(), whole_loss, precise, scale)
    if expected is not None:
        same("per-unit losses", found.tolist(), expected, precise, scale)
    for name, gradient in (vector.get("expected_grad") or vector.get("expected_grads") or {}).items():
        same(f"gradient of {name}", _gradient(inputs.leaves.get(name), gradient), gradient, precise, scale)


def _gradient(leaf: Tensor | list[Tensor] | None, expected: Any) -> Any:
    if isinstance(leaf, list):
        return [_gradient(each, shape) for each, shape in zip(leaf, expected, strict=True)]
    return zeros(expected) if leaf is None or leaf.grad is None else leaf.grad.tolist()
