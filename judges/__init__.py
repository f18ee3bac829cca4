"""Judges say how good responses are. This page is their whole contract; each file beside it is one judge.

A judge module has `VERSION`, `Config`, `USES` (None, "engine" or "forward": what hardware it needs) and

    judge(config, groups: Sequence[Group], tools) -> list[Verdict]      # same length, same order

A model that a judge reads is a field typed `Annotated[str, Reads("model")]` of its Config; inside `judge`
its folder is `tools.model("judge.<field>")`. What is loaded once per worker is loaded with `tools.warm`.
"""

from dataclasses import dataclass

from engines import Message


@dataclass(frozen=True)
class Group:
    """The candidates that compete for one prompt."""

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    """K texts, in the order of the candidates row."""
    meta: dict[str, object]
    """What the prompt's source knew, such as {"answer": "42"}."""


@dataclass(frozen=True)
class Verdict:
    """What a judge thinks of one group. Undecided is None: a score is never invented, and a tie is not an undecided."""

    scores: tuple[float | None, ...]
    """K, higher is better."""
    wins: tuple[tuple[float, ...], ...] | None = None
    """K x K: the probability that i beats j; the diagonal is 0.5 and wins[i][j] + wins[j][i] = 1."""
    detail: dict[str, object] | None = None
    """Whatever helps a person to understand the verdict, such as raw logits or a rationale; must be JSON."""
