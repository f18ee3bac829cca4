"""Several judges as one: their mean, or their vote, and how far they are apart.

`mean` averages scores (as ranks, or as they are where all judges use one scale); `vote` lets each judge say of each
pair of responses which is better, and the score is a response's share of the weighted votes (Copeland's rule with
ties as halves). Where judges are too far apart, a response may be left undecided. Judges over different models are
all in memory at once: give large ones steps of their own.
"""

from collections.abc import Sequence
from statistics import pstdev
from typing import Annotated, Literal

from pydantic import Field, model_validator

from judges import Group, Verdict, of
from judges import uses as uses_of
from metrics.win_rates import Table, win, wins_certain
from pipeline.placement import NOTHING, Need
from pipeline.plugin import Choice, Picks, Settings
from pipeline.tools import Tools

VERSION = 1
USES = NOTHING


class Config(Settings):
    judges: tuple[Annotated[Choice, Picks("judges")], ...] = Field(min_length=2)
    """Who judges."""
    weights: tuple[float, ...] | None = None
    """How much each of them counts; None: all the same."""
    combine: Literal["mean", "vote"] = "mean"
    """The mean of the scores, or the share of votes over pairs of responses."""
    scale: Literal["ranks", "as_they_are"] = "ranks"
    """For `mean` and for the spread: scores as ranks in their group from 0 to 1, ties sharing theirs, or unchanged."""
    max_spread: float | None = Field(None, ge=0)
    """A response on which the judges' scores have a larger standard deviation than this is undecided."""
    min_judges: int | None = Field(None, ge=1)
    """How many judges must have decided a response; None: all. Those who have not are left out of its score."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.weights is not None and (len(self.weights) != len(self.judges) or min(self.weights) <= 0):
            raise ValueError(f"weights: need one positive number for each of the {len(self.judges)} judges, not {list(self.weights)}")
        if self.min_judges is not None and self.min_judges > len(self.judges):
            raise ValueError(f"min_judges {self.min_judges} cannot be reached with {len(self.judges)} judges")
        return self


def uses(config: Config) -> frozenset[Need]:
    """All that its judges run."""
    return NOTHING.union(*(uses_of(choice) for choice in config.judges))


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """Ask every judge about every group, and combine."""
    asked = [of(each).judge(each.config, groups, tools.of(f"judges.{at}")) for at, each in enumerate(config.judges)]
    return [_combined(config, verdicts) for verdicts in zip(*asked, strict=True)]


def _combined(config: Config, verdicts: Sequence[Verdict]) -> Verdict:
    weights = config.weights or (1.0,) * len(verdicts)
    scaled = [ranks(v.scores) if config.scale == "ranks" else v.scores for v in verdicts]
    count = len(verdicts[0].scores)
    known = [[s[i] for s in scaled if s[i] is not None] for i in range(count)]
    spread = [pstdev(values) if values else None for values in known]  # type: ignore[type-var]
    enough = config.min_judges or len(verdicts)
    decided = [
        len(values) >= enough and (config.max_spread is None or width is None or width <= config.max_spread)
        for values, width in zip(known, spread, strict=True)
    ]
    if config.combine == "vote":
        scores, wins = _votes([v.scores for v in verdicts], weights, decided)
    else:
        scores = tuple(_mean([s[i] for s in scaled], weights) if decided[i] else None for i in range(count))
        wins = _mean_wins(verdicts, weights) if None not in scores else None
        wins = wins or wins_certain(scores)
    detail: dict[str, object] = {
        "spread": spread,
        "judges": [{"scores": list(v.scores), "detail": v.detail} for v in verdicts],
    }
    tally = {f"judges.{at}.{name}": value for at, v in enumerate(verdicts) for name, value in (v.tally or {}).items()}
    widths = [width for width in spread if width is not None]
    tally |= {"judge_spread": (sum(widths), len(widths)), "judge_agreement": _agreement([v.scores for v in verdicts])}
    return Verdict(scores, wins, detail, tally)


def ranks(scores: Sequence[float | None]) -> tuple[float | None, ...]:
    """Each score as the share of the others that it beats, a tie counting half: 0 to 1; 0.5 of one alone."""
    known = [score for score in scores if score is not None]
    return tuple(None if score is None else _rank(score, known) for score in scores)


def _rank(score: float, known: list[float]) -> float:
    below, same = sum(other < score for other in known), known.count(score)
    return (below + (same - 1) / 2) / (len(known) - 1) if len(known) > 1 else 0.5


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float:
    """The weighted mean of what is known."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)


def _mean_wins(verdicts: Sequence[Verdict], weights: Sequence[float]) -> Table | None:
    """The weighted mean of the judges' win tables; None if one has none."""
    tables = [v.wins for v in verdicts if v.wins is not None]
    if len(tables) < len(verdicts):
        return None
    count = range(len(tables[0]))
    return tuple(tuple(_mean([table[i][j] for table in tables], weights) for j in count) for i in count)


def _votes(
    scores: Sequence[Sequence[float | None]], weights: Sequence[float], decided: list[bool]
) -> tuple[tuple[float | None, ...], Table | None]:
    """Shares of votes against the other decided responses, and the table of votes if all are decided and compared."""

    def votes(i: int, j: int) -> float | None:
        cast = [win(s[i], s[j]) for s in scores]
        return _mean(cast, weights) if any(vote is not None for vote in cast) else None

    count = len(decided)
    table = [[0.5 if i == j else votes(i, j) if decided[i] and decided[j] else None for j in range(count)] for i in range(count)]
    found: list[float | None] = []
    for i in range(count):
        line = [vote for j, vote in enumerate(table[i]) if j != i and vote is not None]
        found.append((sum(line) / len(line) if line else 0.5 if count == 1 else None) if decided[i] else None)
    if None in found or any(vote is None for line in table for vote in line):
        return tuple(found), None
    return tuple(found), tuple(tuple(vote for vote in line if vote is not None) for line in table)


def _agreement(scores: Sequence[Sequence[float | None]]) -> tuple[float, float]:
    """Of the pairs of responses that all judges scored, on how many all say the same: better, worse or equal."""
    count = len(scores[0])
    said = [{win(s[i], s[j]) for s in scores} for i in range(count) for j in range(i)]
    complete = [votes for votes in said if None not in votes]
    return sum(len(votes) == 1 for votes in complete), len(complete)
