"""Judges say how good responses are. This page is their whole contract; each file beside it is one judge.

A judge module has `VERSION`, `Config`, `USES` (None, "engine" or "forward": what hardware it needs) and

    judge(config, groups: Sequence[Group], tools) -> list[Verdict]      # same length, same order

A judge whose needs depend on its settings has `uses(config)` beside `USES`. A model that a judge reads is a field
typed `Annotated[str, Reads("reward")]` of its Config, by kind (`pipeline.model.KINDS`): "policy" and "endpoint" are asked
for text, and the plan refuses all others. Inside `judge` it is `tools.model("judge.<field>")`, a `models.Model`, and
an engine over it is `tools.engine("judge.<field>")`, wherever the judge sits: a judge that holds others in a field
calls them with `inner(tools, "<field>")`. What is loaded once per worker is loaded with `tools.warm`.
"""

from dataclasses import dataclass, replace

from models.messages import Message
from pipeline.plugin import Choice
from pipeline.tools import Tools


@dataclass(frozen=True)
class Group:
    """The candidates that compete for one prompt."""

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    """K texts, in the order of the candidates row."""
    meta: dict[str, object]
    """What the prompt's source knew, such as {"answer": "42"}."""
    sources: tuple[str, ...] = ()
    """Who made each response: the address of its step; empty if nobody says."""
    anchor: int | None = None
    """Which response the others are measured against. A judge that compares may then leave out all other comparisons."""


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
    of that name among the step's facts, such as {"position_rate": (13, 20)}."""


def uses(choice: Choice) -> str | None:
    """The hardware that a judge with these settings needs."""
    module = choice.module
    return module.uses(choice.config) if hasattr(module, "uses") else module.USES


def inner(tools: Tools, field: str) -> Tools:
    """The tools of a judge that another one holds in `field` (`judge`, `judges.0`): what it reads is at `judge.` for it too.

    Whatever is warm stays shared. The address names the field, so that two equal judges of an ensemble draw differently.
    """
    prefix = f"judge.{field}."
    inputs = {f"judge.{slot.removeprefix(prefix)}": read for slot, read in tools.inputs.items() if slot.startswith(prefix)}
    return replace(tools, inputs=inputs, address=f"{tools.address}, {field}")
