"""Objectives say what training minimises. This page is their whole contract; each file beside it is one objective.

An objective module has `VERSION`, `Config`, `NEEDS` (a subset of WANTS' keys), `UNIT` ("pair", "row", "token" or
"group") and

    loss(config, batch: Batch) -> Loss

It is a pure function of tensors: no model, no collective, no reduction. The loop reduces: it divides the
sum of the unit losses by the total weight of the units in the whole optimizer step, over all ranks and
micro-batches. Where settings change what is needed or the unit, the module also has `needs(config)` or `unit(config)`.

Where what weighs log-ratios against the reference is not a field `beta`, the module has `beta(config)`, which diagnoses read.

One that needs masks has `masks(config)`, which says where they come from: "activations" of the reference, "ones", or learned
from the reference's states, one ("common") or two ("independent").

An objective whose losses depend on each other over the whole step (KTO's baseline, AOT's sorting) also has

    gather(config, batch) -> dict[str, Tensor]       one detached value for each unit, without gradient; with GATHERS = "extra"
                                                     the batch has its extra responses alone, which saves a forward
    update(config, state, whole) -> dict[str, float] only if it carries numbers from step to step (BCO's running mean)

and finds what was gathered over all ranks and micro-batches in `batch.whole` (with its own units at
`batch.whole_at_U`), and the numbers, updated with it, in `batch.state`, which begins as `STATE`.

Shapes: N responses, T tokens, P pairs, U units, E extra responses of a unit, H policies of the past, G groups, K degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.plugin import Choice, Settings

if TYPE_CHECKING:
    from torch import Tensor

WANTS = {
    "pairs": "rows of chosen and rejected responses",
    "groups": "rows of K responses that belong together",
    "desirable": "single responses that are good or bad (of pairs: the chosen and the rejected)",
    "reference": "the reference's log-probabilities",
    "history": "log-probabilities under one or more earlier policies",
    "win_rates": "P(response beats a sample of the policy that made it)",
    "scores": "the judge's score of each response",
    "extra": "further responses beside each unit, such as a policy's own sample",
    "extra_reference": "the reference's log-probabilities of its extra responses",
    "token_kl": "KL(reference || policy) at each token, over the whole vocabulary",
    "log_sum_sq": "log of the sum of squared probabilities at each token",
    "masks": "weights of tokens in reward and in KL",
    "phrases": "which phrase each token belongs to",
    "degrees": "a guess, for each extra response, of how much was deleted from it",
}
"""What an objective may need, in the words of messages."""


@dataclass(frozen=True)
class ExtraResponses:
    """One further response for each unit, in the order of the units."""

    logps_UT: Tensor
    """Log-probabilities of its tokens under the policy, 0 where masked. Carries the gradient."""
    mask_UT: Tensor
    ref_logps_UT: Tensor | None = None
    """The same under the reference, if NEEDS has "extra_reference"."""


@dataclass(frozen=True)
class Batch:
    """Responses as flat rows; pairs are indices into them, so that a response may stand in many pairs."""

    logps_NT: Tensor
    """log pi(token | before) of the response tokens, natural log, 0 where masked. Carries the gradient."""
    mask_NT: Tensor
    """True where there is a response token."""
    ref_logps_NT: Tensor | None = None
    """The same under the reference policy, if NEEDS has "reference"."""
    history_HNT: Tensor | None = None
    """The same under earlier policies, the latest first, if NEEDS has "history"."""
    pair_w_P: Tensor | None = None
    """Row of each pair's chosen response."""
    pair_l_P: Tensor | None = None
    """Row of each pair's rejected response."""
    pair_label_P: Tensor | None = None
    """P(chosen beats rejected); 1 where no judge gave one."""
    pair_weight_P: Tensor | None = None
    """1 by default."""
    group_N: Tensor | None = None
    """Number of each response's group, from 0, if NEEDS has "groups"."""
    desirable_N: Tensor | None = None
    """True for a good response, False for a bad one, if NEEDS has "desirable"."""
    win_rate_N: Tensor | None = None
    """P(response beats a sample of the policy that made it), if NEEDS has "win_rates"."""
    score_N: Tensor | None = None
    """The judge's score, if NEEDS has "scores"."""
    extra: tuple[ExtraResponses, ...] = ()
    """Further responses of each unit, if NEEDS has "extra"; as many as the module's EXTRAS."""
    token_kl_NT: Tensor | None = None
    """KL(reference || policy) at each response token over the vocabulary, in nats, with gradient, if NEEDS has "token_kl"."""
    log_sum_sq_NT: Tensor | None = None
    """log of the sum over the vocabulary of pi^2 at each response token, if NEEDS has "log_sum_sq"."""
    reward_mask_NT: Tensor | None = None
    """Weight of each token's log-ratio, at least 0, if NEEDS has "masks"; may carry a gradient."""
    kl_mask_NT: Tensor | None = None
    """Weight of each token's KL, likewise."""
    phrase_NT: Tensor | None = None
    """0 for tokens that both responses of a pair share, k >= 1 for those of its k-th phrase, if NEEDS has "phrases"."""
    degree_logits_EUK: Tensor | None = None
    """What a head made of the last state of each unit's extra responses, one head for each of the E, if NEEDS has "degrees"."""
    degree_EU: Tensor | None = None
    """Which of the K degrees (the module's `degrees(config)`) is the right one."""
    whole: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """What `gather` returned, over all units of the step, in one order for all."""
    whole_at_U: Tensor | None = None
    """Where the units of this batch stand in `whole`."""
    state: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Loss:
    """Losses per unit, before any reduction."""

    per_unit: Tensor
    """(P,) for UNIT "pair", (N,) for "row", (G,) for "group", (N, T) for "token" (0 where masked). Already multiplied by the weights."""
    terms: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """Detached per-unit values worth logging, such as `margin`, unweighted; averaged over the units."""
    per_chosen_token_PT: Tensor | None = None
    """A further loss of every token of every pair's chosen response (0 where masked), divided by the number of these tokens
    in the whole step and added (TRL's `sft` term)."""
    label_P: Tensor | None = None
    """New labels of the pairs, detached: what `pair_label_P` will hold when they come again (POWER-DL)."""


class Objective(Protocol):
    """What an objective module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    NEEDS: frozenset[str]
    UNIT: str

    def loss(self, config: Any, batch: Batch) -> Loss: ...


def needs(objective: Choice) -> frozenset[str]:
    """What this objective needs with these settings. Raises ValueError for a need that is none of WANTS."""
    module = objective.module
    found = frozenset(module.needs(objective.config) if hasattr(module, "needs") else module.NEEDS)
    if strange := sorted(found - WANTS.keys()):
        raise ValueError(f"objective '{objective.kind}' declares that it needs {strange[0]!r}; known needs: {', '.join(WANTS)}")
    return found


def unit(objective: Choice) -> str:
    """What its losses are per, with these settings."""
    module = objective.module
    return module.unit(objective.config) if hasattr(module, "unit") else module.UNIT


def beta(objective: Choice) -> float | None:
    """What weighs log-ratios in its implied reward, beta * log(policy / reference), with these settings; None if nothing does."""
    module = objective.module
    found = module.beta(objective.config) if hasattr(module, "beta") else getattr(objective.config, "beta", None)
    return found or None


def tables(objective: Choice) -> tuple[str, ...]:
    """What it can be trained on with these settings."""
    wanted = needs(objective)
    if "groups" in wanted:
        return ("judged",)
    if wanted & {"pairs", "desirable"}:
        return ("pairs",)
    return ("pairs", "judged") if wanted & {"scores", "win_rates"} else ("pairs", "judged", "candidates")
