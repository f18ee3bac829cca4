"""Judges say how good responses are. This page is their whole contract; each file beside it is one judge.

A judge module is a `Judge`. `USES` holds "engine" and "forward": what it runs; often NOTHING. `judge` gives as many verdicts as it
gets groups, in their order.

A judge whose needs depend on its settings has `uses(config)` beside `USES`. A model that a judge reads is a field
typed `Annotated[str, Reads("reward")]` of its Config, by kind (`pipeline.model.KINDS`): "policy" and "endpoint" are asked
for text, and the plan refuses all others. Inside `judge` it is `tools.model("<field>")`, a `models.Model`, and an engine
over it is `tools.engine("<field>")`, wherever the judge sits: whoever holds a judge in a field calls it with
`tools.of("<field>")`. What is loaded once per worker is loaded with `tools.warm`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from models.messages import Message
from pipeline.placement import Need
from pipeline.plugin import Choice, Settings
from pipeline.tools import Tools


@dataclass(frozen=True)
class Verdict:
    """What a judge thinks of one group. Undecided is None: a score is never invented, and a tie is not an undecided."""

    scores: tuple[float | None, ...]
    """K, higher is better."""
    wins: tuple[tuple[float, ...], ...] | None = None
    """K x K: the probability that i beats j; the diagonal is 0.5 and wins[i][j] + wins[j][i] = 1."""
    detail: dict[str, object] | None = None
    """Whatever helps a person to understand the verdict, such as raw logits or a rationale; must be JSON."""
    tally: dict[str, tuple[float, float]] | None = None
    """What the judge observed of itself on this group, as (part, whole); summed over all groups it becomes the rate
    of that name among the step's facts, such as {"position_rate": (13, 20)}. Not kept in the table."""


@dataclass(frozen=True)
class Group:
    """The candidates that compete for one prompt, and what was said of them: what judges and rules look at."""

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    """K texts, in the order of the candidates row."""
    meta: dict[str, object]
    """What the prompt's source knew, such as {"answer": "42"}."""
    sources: tuple[str, ...] = ()
    """Who made each response: the address of its step; empty if nobody says."""
    finish_reasons: tuple[str, ...] = ()
    """Why each response ended: "stop", "length" ...; empty if nobody says."""
    anchor: int | None = None
    """Which response the others are measured against. A judge that compares may then leave out all other comparisons."""
    verdict: Verdict | None = None
    """What a judge said of them; None before one did."""


class Judge(Protocol):
    """What a judge module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    USES: frozenset[Need]

    def judge(self, config: Any, groups: Sequence[Group], tools: Tools) -> list[Verdict]: ...


def of(choice: Choice) -> Judge:
    """The module of a choice, by its contract."""
    return cast(Judge, choice.module)


def uses(choice: Choice) -> frozenset[Need]:
    """What a judge with these settings runs."""
    module = choice.module
    return module.uses(choice.config) if hasattr(module, "uses") else module.USES
