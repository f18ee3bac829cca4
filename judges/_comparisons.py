"""From comparisons in both orders to scores and a win table: the reductions of the pairwise judge.

Legend: i and j are places among the K different texts of a group; P is the probability that i beats j.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from judges._asking import Tally
from metrics import bracket as brackets
from metrics.win_rates import Table, sigmoid, wins_certain

_SURE = 1e-9
"""Probabilities are kept this far from 0 and 1 where their logit is taken."""


@dataclass(frozen=True)
class Outcome:
    """One pair (i, j), asked both ways round; None where the judge gave no verdict."""

    shown_first: float | None
    """P(the first shown is better), i being the first."""
    shown_second: float | None
    """The same, j being the first."""

    def wins(self, strict: bool) -> float | None:
        """P(i beats j); `strict`: 1 or 0 if both orders say so, else a tie. None unless both orders have a verdict."""
        if self.shown_first is None or self.shown_second is None:
            return None
        if strict:
            return {(1.0, 0.0): 1.0, (0.0, 1.0): 0.0}.get((self.shown_first, self.shown_second), 0.5)
        return (self.shown_first + 1 - self.shown_second) / 2


def majority(values: list[float]) -> float | None:
    """What most verdicts of one question say; 0.5 if they are evenly split, None if there are none."""
    if not values:
        return None
    mean = sum(values) / len(values)
    return 0.5 if mean == 0.5 else float(mean > 0.5)


def all_pairs(copies: Sequence[int], outcomes: Mapping[tuple[int, int], Outcome], strict: bool) -> tuple[list[float | None], Table | None]:
    """Mean win rates against the others, and the K x K table, from all pairs i < j; text i occurs `copies[i]` times.

    Where pairs are undecided, those who take part in most of them are left undecided, until the rest are fully
    compared with each other: their scores all mean the same. Then there is no table.
    """
    count = len(copies)
    table = [[0.5] * count for _ in range(count)]
    open: set[tuple[int, int]] = set()
    for (i, j), outcome in outcomes.items():
        win = outcome.wins(strict)
        if win is None:
            open.add((i, j))
        else:
            table[i][j], table[j][i] = win, 1 - win
    kept = set(range(count))
    while open:
        missing = {i: sum(i in pair for pair in open) for i in kept}
        kept -= {i for i in kept if missing[i] == max(missing.values())}
        open = {pair for pair in open if kept.issuperset(pair)}
    if count > 1 and len(kept) < 2:
        kept = set()
    scores = [_mean([table[i][j] for j in sorted(kept) for _ in range(copies[j] - (i == j))]) if i in kept else None for i in range(count)]
    return scores, tuple(map(tuple, table)) if len(kept) == count else None


def through_baseline(
    count: int, base: int, outcomes: Mapping[tuple[int, int], Outcome], strict: bool, tau: float
) -> tuple[list[float | None], Table | None]:
    """P(i beats the baseline) for each i, 0.5 for itself, and P(i beats j) = sigmoid((e_i - e_j) / tau), e = logit P.

    A strict P is 0, 0.5 or 1, so that the better one beats the other for certain.
    """
    scores = [0.5 if i == base else outcomes[i, base].wins(strict) for i in range(count)]
    known = [score for score in scores if score is not None]
    if len(known) < count:
        return scores, None
    if strict:
        return scores, wins_certain(scores)
    strengths = [_logit(score) / tau for score in known]
    return scores, tuple(tuple(_of(one, other) for other in strengths) for one in strengths)


def bracket(count: int, outcomes: Mapping[tuple[int, int], Outcome], strict: bool) -> brackets.Bracket | None:
    """The tournament of `count` texts with the comparisons known so far; None if one of them has no verdict: nobody can go on."""
    wins = {pair: win for pair, outcome in outcomes.items() if (win := outcome.wins(strict)) is not None}
    return brackets.replay(count, wins) if len(wins) == len(outcomes) else None


def through_bracket(
    count: int, outcomes: Mapping[tuple[int, int], Outcome], strict: bool
) -> tuple[list[float | None], brackets.Bracket | None]:
    """The share of its comparisons that each text won, a tie being won by the first: 1 for the winner alone, 0 for the loser alone.

    One comparison without a verdict leaves all undecided. After an upset all have 0.5: comparisons that contradict each other rank nobody.
    """
    over = bracket(count, outcomes, strict)
    if over is None or over.final is None:
        return [None] * count, None
    if over.upset:
        return [0.5] * count, over
    wins = {pair: outcome.wins(strict) or 0.0 for pair, outcome in outcomes.items()}
    won = [brackets.winner(game, wins) for game in over.played]
    scores: list[float | None] = [won.count(i) / sum(i in game for game in over.played) for i in range(count)]
    # Whoever was left over stands in both brackets; as a finalist it counts by the one that it came through.
    scores[over.final[0]], scores[over.final[1]] = 1.0, 0.0
    return scores, over


def tally(outcomes: Iterable[Outcome]) -> Tally:
    """How the judge treats the two places, for one group.

    `position_rate` is the share of verdicts for what was shown first, `order_flips` that of pairs whose orders name
    different winners. Verdicts of exactly one half name nobody.
    """
    outcomes = list(outcomes)
    named = [p for o in outcomes for p in (o.shown_first, o.shown_second) if p is not None and p != 0.5]
    both = [(o.shown_first, o.shown_second) for o in outcomes if o.shown_first is not None and o.shown_second is not None]
    both = [(first, second) for first, second in both if 0.5 not in (first, second)]
    return {
        "position_rate": (sum(p > 0.5 for p in named), len(named)),
        "order_flips": (sum((first > 0.5) == (second > 0.5) for first, second in both), len(both)),
    }


def _mean(values: list[float]) -> float:
    # Alone, a response is as good as itself.
    return sum(values) / len(values) if values else 0.5


def _logit(p: float) -> float:
    p = min(max(p, _SURE), 1 - _SURE)
    return math.log(p / (1 - p))


def _of(one: float, other: float) -> float:
    return 0.5 if one == other else sigmoid(one - other)
