"""What verdicts say about their judge: order effects, cycles, love of length, agreement, calibration, saturation.

Definitions as in the field; kappas are Cohen's (1960) and Fleiss' (1971). None where nothing can be compared.
Legend: K candidates of a group, N items, C categories, R raters.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class SwapTest:
    """Verdicts "A", "B" or "tie" on the same two responses in both orders. Shares of all pairs of verdicts."""

    consistency: float
    """The same response won in both orders, or both were ties."""
    first_position_bias: float
    """Whoever was shown first won twice."""
    second_position_bias: float

    @property
    def bias(self) -> float:
        """From -1 (always the second) to 1 (always the first)."""
        return self.first_position_bias - self.second_position_bias


def swap_test(verdicts: Sequence[tuple[str, str]]) -> SwapTest | None:
    """The verdicts of (x, y) and then of (y, x), by position; None of no verdicts."""
    if not verdicts:
        return None
    count = len(verdicts)
    same = sum((first, second) in (("A", "B"), ("B", "A"), ("tie", "tie")) for first, second in verdicts)
    return SwapTest(
        same / count, sum(each == ("A", "A") for each in verdicts) / count, sum(each == ("B", "B") for each in verdicts) / count
    )


def cycles(wins_KK: Sequence[Sequence[float]]) -> tuple[int, int]:
    """How many triples of candidates beat each other in a circle (each with more than 0.5), and how many triples there are."""
    beats_KK = np.asarray(wins_KK, float) > 0.5
    if beats_KK.size == 0:
        return 0, 0
    triples = list(combinations(range(len(beats_KK)), 3))
    found = sum(
        bool(beats_KK[i, j] and beats_KK[j, k] and beats_KK[k, i]) or bool(beats_KK[j, i] and beats_KK[k, j] and beats_KK[i, k])
        for i, j, k in triples
    )
    return found, len(triples)


def longer_wins(scores: Sequence[float | None], lengths: Sequence[int]) -> tuple[float, int]:
    """Of the pairs of one group that differ in length: how many the longer one won (a tie is half), and how many there are."""
    won, count = 0.0, 0
    for i, j in combinations(range(len(scores)), 2):
        mine, other = scores[i], scores[j]
        if mine is None or other is None or lengths[i] == lengths[j]:
            continue
        count += 1
        won += 0.5 if mine == other else float((mine > other) == (lengths[i] > lengths[j]))
    return won, count


def spearman(left_N: Array, right_N: Array) -> float | None:
    """Rank correlation, ties at their mean rank; None of fewer than two items, or where one side is constant."""
    left_N, right_N = ranks(left_N), ranks(right_N)
    if len(left_N) < 2 or not left_N.std() or not right_N.std():
        return None
    return float(np.corrcoef(left_N, right_N)[0, 1])


def ranks(values_N: Array) -> Array:
    """Ranks from 0, equal values at the mean of their places."""
    values_N = np.asarray(values_N, float)
    _, inverse_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse_N]


def cohen_kappa(left: Sequence[Hashable], right: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance; None of no items, or where chance alone makes them agree always."""
    if len(left) != len(right):
        raise ValueError(f"two raters of the same items give as many labels, not {len(left)} and {len(right)}")
    if not left:
        return None
    agreed = sum(a == b for a, b in zip(left, right, strict=True)) / len(left)
    by_chance = sum(list(left).count(each) * list(right).count(each) for each in {*left, *right}) / len(left) ** 2
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else None


def fleiss_kappa(counts_NC: Array) -> float | None:
    """Agreement of R raters beyond chance, from how many of them put each item into each category; every item has R ratings."""
    counts_NC = np.asarray(counts_NC, float)
    raters_N = counts_NC.sum(1) if counts_NC.size else np.zeros(0)
    if not len(raters_N) or raters_N[0] < 2:
        return None
    if (raters_N != raters_N[0]).any():
        raise ValueError("every item must have the same number of ratings")
    raters = raters_N[0]
    agreed = float(((counts_NC**2).sum(1) - raters).mean() / (raters * (raters - 1)))
    by_chance = float(((counts_NC.sum(0) / counts_NC.sum()) ** 2).sum())
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else None


def calibration_error(probabilities_N: Array, outcomes_N: Array, bins: int = 10) -> float | None:
    """Expected calibration error: mean distance of probability and frequency over equally wide bins; None of no items."""
    probabilities_N, outcomes_N = np.asarray(probabilities_N, float), np.asarray(outcomes_N, float)
    if not len(probabilities_N):
        return None
    bin_N = np.minimum((probabilities_N * bins).astype(int), bins - 1)
    gaps = [abs((probabilities_N - outcomes_N)[bin_N == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(probabilities_N))


def flat(scores: Sequence[float | None]) -> bool | None:
    """Whether all decided scores of a group are equal; None of fewer than two."""
    known = [score for score in scores if score is not None]
    return len(set(known)) == 1 if len(known) > 1 else None
