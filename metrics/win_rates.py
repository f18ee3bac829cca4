"""From comparisons to scores, win tables and win rates: the pure reductions that judges and the pair stage share.

Legend: K candidates; `logits[i][j]` is the logit of candidate i shown first against j shown second, 0 on the
diagonal; `wins[i][j]` is the probability that i beats j.
Sources: LLM-Blender (arXiv:2306.02561, `max_logits` ranking) and SPPO (arXiv:2405.00675, section 4).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

Table = tuple[tuple[float, ...], ...]


def scores_from_logits(logits: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """K x K directed logits to K scores: the mean over all K (the candidate itself counts as 0) of l_ij - l_ji."""
    count = len(logits)
    return tuple(sum(row[j] - logits[j][i] for j in range(count)) / count for i, row in enumerate(logits))


def wins_aggregated(scores: Sequence[float], scale: float = 1.0) -> Table:
    """Win table sigmoid(scale * (score_i - score_j)), as the published SPPO code has it: it depends on all K candidates."""
    return tuple(tuple(sigmoid(scale * (mine - other)) for other in scores) for mine in scores)


def wins_pairwise(logits: Sequence[Sequence[float]]) -> Table:
    """Win table sigmoid((l_ij - l_ji) / 2): the mean logit of both orders, whatever the other candidates are."""
    count = range(len(logits))
    return tuple(tuple(sigmoid((logits[i][j] - logits[j][i]) / 2) for j in count) for i in count)


def win(one: float | None, other: float | None) -> float | None:
    """Who of two is better, for a judge without doubts: 1 the first, 0 the second, 0.5 neither. None if a score is None."""
    if one is None or other is None:
        return None
    return 1.0 if one > other else 0.5 if one == other else 0.0


def wins_certain(scores: Sequence[float | None]) -> Table | None:
    """Win table of a judge without doubts: 1 for the higher score, 0.5 for equal ones. None if any score is None."""
    if None in scores:
        return None
    order = sorted(set(scores))  # type: ignore[type-var]
    return _certain(tuple(map(order.index, scores)))


def win_rates(wins: Sequence[Sequence[float]], include_self: bool = True) -> tuple[float | None, ...]:
    """The mean of each row: P(i beats a random one of the K), with its own 0.5 counted or not.

    SPPO's code counts it (`include_self`). Without it, a candidate that stands alone has no win rate (None).
    """
    count = len(wins)
    if include_self:
        return tuple(sum(row) / count for row in wins)
    return tuple((sum(row) - row[i]) / (count - 1) if count > 1 else None for i, row in enumerate(wins))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


@lru_cache(maxsize=65536)
def _certain(ranks: tuple[int, ...]) -> Table:
    # Cached: millions of groups share few patterns of ranks.
    return tuple(tuple(1.0 if a > b else 0.5 if a == b else 0.0 for b in ranks) for a in ranks)
