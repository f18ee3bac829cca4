"""What rules have in common: who made a response, and the best and worst of some, undecided ones left out.

The first of equals is taken on both sides, which is what numpy's argmax and argmin do.
"""

from collections.abc import Iterable

from judges import Group
from pipeline.errors import Refusal
from rules import verdict

SLACK = 1e-9


def decided(group: Group, among: Iterable[int] | None = None) -> list[int]:
    """Indices of the responses that have a score, in order."""
    return [i for i in (range(len(verdict(group).scores)) if among is None else among) if verdict(group).scores[i] is not None]


def score(group: Group, at: int) -> float:
    """The score of a decided response."""
    value = verdict(group).scores[at]
    assert value is not None
    return value


def leads(group: Group, winner: int, loser: int, by: float) -> bool:
    """Whether one score is higher than another by at least `by`; means of scores are not exact in binary, hence the slack."""
    return score(group, winner) - score(group, loser) >= by - SLACK


def best(group: Group, among: list[int]) -> int:
    """The first of those with the highest score; `among` are decided, and one at least."""
    return max(among, key=lambda at: score(group, at))


def worst(group: Group, among: list[int]) -> int:
    """The first of those with the lowest score."""
    return min(among, key=lambda at: score(group, at))


def made_by(group: Group, node: str, rule: str) -> list[int]:
    """Responses that the node made, in whatever round; Refusal if it made none or all, for then the name is wrong."""
    found = [i for i, source in enumerate(group.sources) if source == node or source.rpartition("/")[2] == node]
    if not 0 < len(found) < len(group.sources):
        raise Refusal(
            f"rule {rule}: of the {len(group.sources)} responses to {group.id!r}, {len(found)} come from '{node}' "
            f"(sources: {', '.join(dict.fromkeys(group.sources)) or 'none'}); name the node that made some of them and not all"
        )
    return found


def why_none(group: Group, found: list[int]) -> str | None:
    """The reason for no pair where fewer than two responses are decided."""
    if len(group.responses) < 2:
        return "single"
    return "undecided" if len(found) < 2 else None
