"""Objectives say what training minimises. This page is their whole contract; each file beside it is one objective.

An objective module has `VERSION`, `Config`, `NEEDS` (a subset of {"pairs", "reference", "win_rates"}), `UNIT`
("pair", "row" or "token") and

    loss(config, batch: Batch) -> Loss

It is a pure function of tensors: no model, no collective, no reduction. The loop reduces: it divides the
sum of the unit losses by the total weight of the units in the whole optimizer step, over all ranks and
micro-batches. Where settings lift a need, the module also has `needs(config)`, a subset of NEEDS.

Shapes: N responses, T tokens, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.plugin import Choice


@dataclass(frozen=True)
class Batch:
    """Responses as flat rows; pairs are indices into them, so that a response may stand in many pairs."""

    logps_NT: Tensor
    """log pi(token | before) of the response tokens, natural log, 0 where masked. Carries the gradient."""
    mask_NT: Tensor
    """True where there is a response token."""
    ref_logps_NT: Tensor | None = None
    """The same under the reference policy, if NEEDS has "reference"."""
    pair_w_P: Tensor | None = None
    """Row of each pair's chosen response."""
    pair_l_P: Tensor | None = None
    """Row of each pair's rejected response."""
    pair_label_P: Tensor | None = None
    """P(chosen beats rejected); 1 where no judge gave one."""
    pair_weight_P: Tensor | None = None
    """1 by default."""
    win_rate_N: Tensor | None = None
    """P(response beats a sample of the policy that made it), if NEEDS has "win_rates"."""


@dataclass(frozen=True)
class Loss:
    """Losses per unit, before any reduction."""

    per_unit: Tensor
    """(P,) for UNIT "pair", (N,) for "row", (N, T) for "token" (0 where masked). Already multiplied by the weights."""
    terms: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """Detached per-unit values worth logging, such as `margin`, unweighted; averaged over the units."""


def needs(objective: Choice) -> frozenset[str]:
    """What this objective needs with these settings."""
    module = objective.module
    return frozenset(module.needs(objective.config) if hasattr(module, "needs") else module.NEEDS)
