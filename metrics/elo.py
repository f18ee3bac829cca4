"""Elo ratings of players that met in battles whose referee may favour a place: Meta-Rewarding (arXiv:2407.19594).

A win counts by the share of all wins that the other place had, and the ratings maximise sum B_mn log sigmoid(e_m - e_n).
Unverified: both forms, for a summary of the paper was at hand and no code. The L2 penalty is ours: without it, who never lost
has no finite rating.
Legend: K players; B_KK[m, n] is the weight of m's wins over n.
"""

from collections.abc import Iterable

import numpy as np

Array = np.ndarray
Battle = tuple[int, int, float]
"""Who was shown first, who second, and how much of the win went to the first: 1, 0, or a probability between."""

_STEPS = 200
_CLOSE = 1e-13


def place_weights(wins_first: float, wins_second: float) -> tuple[float, float] | None:
    """What a win from the first place and one from the second count; None of no wins."""
    total = wins_first + wins_second
    return (wins_second / total, wins_first / total) if total else None


def weighted_wins(battles: Iterable[Battle], players: int, weights: tuple[float, float]) -> Array:
    """B_KK of battles, by the weights of the two places."""
    wins_KK = np.zeros((players, players))
    for first, second, share in battles:
        wins_KK[first, second] += weights[0] * share
        wins_KK[second, first] += weights[1] * (1 - share)
    return wins_KK


def elo(wins_KK: Array, l2: float = 1e-3) -> Array:
    """argmax_e of sum_mn B_mn log sigmoid(e_m - e_n) - l2 sum_m e_m^2, in natural units; their mean is 0. By Newton's method."""
    ratings_K = np.zeros(len(wins_KK))
    for _ in range(_STEPS):
        lost_KK = 1 / (1 + np.exp(ratings_K[:, None] - ratings_K))  # sigmoid(e_n - e_m)
        pull_KK = wins_KK * lost_KK
        gradient_K = pull_KK.sum(1) - pull_KK.sum(0) - 2 * l2 * ratings_K
        bend_KK = (wins_KK + wins_KK.T) * lost_KK * (1 - lost_KK)
        step_K = np.linalg.solve(np.diag(bend_KK.sum(1) + 2 * l2) - bend_KK, gradient_K)
        if np.abs(step_K).max(initial=0.0) < _CLOSE:
            break
        # The function is concave: a step that overshoots is halved until it leads up.
        share = 1.0
        while share > _CLOSE and _value(wins_KK, ratings_K + share * step_K, l2) < _value(wins_KK, ratings_K, l2):
            share /= 2
        ratings_K = ratings_K + share * step_K
    return ratings_K


def _value(wins_KK: Array, ratings_K: Array, l2: float) -> float:
    return float(-(wins_KK * np.logaddexp(0, ratings_K - ratings_K[:, None])).sum() - l2 * (ratings_K**2).sum())
