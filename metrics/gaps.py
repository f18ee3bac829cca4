"""How far chosen and rejected responses are apart: in the judge's scores, in their words, in the model's representation.

Source: Temporal Self-Rewarding Language Models (arXiv:2508.06026): as both sides come from ever closer models the gap closes,
and DPO's gradient with it, whose norm is bounded by the distance of the two representations.
Legend: P pairs, H hidden size.
"""

from collections.abc import Hashable, Sequence

import numpy as np

Array = np.ndarray


def score_gap(chosen_P: Array, rejected_P: Array) -> float | None:
    """Mean of the judge's score of the chosen minus that of the rejected; pairs without a score (NaN) are left out, None of none."""
    gaps_P = np.subtract(chosen_P, rejected_P).astype(float)
    gaps_P = gaps_P[~np.isnan(gaps_P)]
    return float(gaps_P.mean()) if len(gaps_P) else None


def text_gap(left: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """Normalised edit distance of two sequences of tokens: 0 of equal ones (two empty ones too), 1 where nothing is kept."""
    longest = max(len(left), len(right))
    return edit_distance(left, right) / longest if longest else 0.0


def edit_distance(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and substitutions of single tokens. Time len(left) * len(right)."""
    numbers: dict[Hashable, int] = {}
    a = np.fromiter((numbers.setdefault(each, len(numbers)) for each in left), np.int64)
    b = np.fromiter((numbers.setdefault(each, len(numbers)) for each in right), np.int64)
    places = np.arange(len(b) + 1)
    row = places.copy()
    for at, token in enumerate(a, start=1):
        new = np.empty_like(row)
        new[0] = at
        new[1:] = np.minimum(row[1:] + 1, row[:-1] + (b != token))
        # Insertions run along the row: the smallest of (value - place) so far, carried to each place.
        row = np.minimum.accumulate(new - places) + places
    return int(row[-1])


def cosines(chosen_PH: Array, rejected_PH: Array) -> Array:
    """Cosine of each pair of vectors; NaN where one of them is zero."""
    norms_P = np.linalg.norm(chosen_PH, axis=1) * np.linalg.norm(rejected_PH, axis=1)
    inner_P = np.einsum("ph,ph->p", np.asarray(chosen_PH, float), np.asarray(rejected_PH, float))
    return np.divide(inner_P, norms_P, out=np.full(len(norms_P), np.nan), where=norms_P > 0)


def distances(chosen_PH: Array, rejected_PH: Array) -> Array:
    """Euclidean distance of each pair of vectors."""
    return np.linalg.norm(np.subtract(chosen_PH, rejected_PH), axis=1)
