"""EGPO's pairs: the first two explored responses as they were sampled, with P(each beats the opponent) (arXiv:2503.08942).

Neither need be the better one: the loss asks for both win rates, not for an order. They are the mean of P(response beats
an opponent's response) over the node `opponent`'s responses in the win table; without `opponent` they are the judge's
scores, which then have to be probabilities: the judge `anchor` with `by: win_rate` gives such.
"""

from collections.abc import Sequence

from judges import Group
from pipeline.errors import Refusal
from pipeline.plugin import Settings
from rules import Pick, _scored, verdict

VERSION = 1


class Config(Settings):
    source: str
    """The node that explored; the paper samples at temperature 2.0 with top_k 10."""
    opponent: str | None = None
    """The node that made the opponent's responses. None: the scores are P(response beats the opponent)."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The one pair of a group, or why there is none: single, undecided."""
    pair = [i for i, source in enumerate(group.sources) if config.source in (source, source.rpartition("/")[2])][:2]
    if not pair:
        raise Refusal(
            f"rule explored: of the {len(group.sources)} responses to {group.id!r}, none comes from '{config.source}' "
            f"(sources: {', '.join(dict.fromkeys(group.sources)) or 'none'}); name the node that explored"
        )
    if len(pair) < 2:
        return [], "single"
    rates = _scores(group, pair) if config.opponent is None else _against(group, pair, config.opponent)
    return ([], "undecided") if rates is None else ([Pick(pair[0], pair[1], rates)], None)


def _scores(group: Group, pair: Sequence[int]) -> tuple[float, float] | None:
    """The judge's scores, as win rates."""
    if len(_scored.decided(group, pair)) < 2:
        return None
    first, second = (_scored.score(group, i) for i in pair)
    if not (0 <= first <= 1 and 0 <= second <= 1):
        raise Refusal(
            f"rule explored: the scores {first:g} and {second:g} of {group.id!r} are no probabilities of beating an opponent; use the "
            "judge `anchor` with `by: win_rate`, or name the `opponent` in this judge's win table"
        )
    return first, second


def _against(group: Group, pair: Sequence[int], opponent: str) -> tuple[float, float] | None:
    """The mean of P(response beats an opponent's response)."""
    others = _scored.made_by(group, opponent, "explored")
    wins = verdict(group).wins
    if wins is None:
        if None in verdict(group).scores:
            return None
        raise Refusal(
            "rule explored: `opponent` is looked up in a win table, and there is none here; judge both nodes as one group "
            "(`candidates: [...]`) with a judge that compares, or leave `opponent` out and use the judge `anchor` with `by: win_rate`"
        )
    first, second = (sum(wins[i][j] for j in others) / len(others) for i in pair)
    return first, second
