"""Texts by their n-grams: how much one repeats itself, and how alike two are. Source: ours.

DNO flags heavy n-gram repetition (arXiv:2404.03715, section 5.1) without saying how exactly, so the measures are ours.
"""

from collections.abc import Sequence
from functools import lru_cache

N = 4
"""Words of an n-gram; characters where a text has less than 2 N words, as in languages that write none apart."""


def units(text: str) -> Sequence[str]:
    """The words of a text, or its characters if it has few."""
    words = text.split()
    return words if len(words) >= 2 * N else "".join(words)


def grams(text: str) -> list[tuple[str, ...]]:
    """The n-grams of a text, in order; the whole text if it is shorter than one."""
    parts = units(text)
    return [tuple(parts[i : i + N]) for i in range(max(len(parts) - N + 1, 1))]


def repeated(text: str) -> float:
    """Share of a text's n-grams that stood in it before: 0 without repetition, near 1 in a loop. 0 for less than 2 N units."""
    if len(units(text)) < 2 * N:
        return 0.0
    found = grams(text)
    return 1.0 - len(set(found)) / len(found)


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of two texts' sets of n-grams (Broder, 1997), in [0, 1]; 1 for texts that differ in white space alone."""
    if a.split() == b.split():
        return 1.0
    mine, other = _set(a), _set(b)
    both = len(mine & other)
    # Same n-grams, other text: as close as can be, and still not the same.
    return min(both / (len(mine) + len(other) - both), 1.0 - 1e-9)


@lru_cache(maxsize=1024)
def _set(text: str) -> frozenset[tuple[str, ...]]:
    return frozenset(grams(text))
