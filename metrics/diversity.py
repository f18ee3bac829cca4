"""Diversity of sampled texts: distinct-n, expectation-adjusted distinct, self-BLEU, and how many of a group's answers differ.

Sources: Li et al. (arXiv:1510.03055), Liu et al. (arXiv:2202.13587), Zhu et al. (arXiv:1802.01886). Words are what whitespace
separates. A collapse of the policy shows here before it shows in a score.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

N = 4
"""Longest n-grams of BLEU."""
MISSED = 0.1
"""What counts as the number of matches of an order that has none."""


def ngrams(texts: Iterable[str], n: int) -> tuple[set[tuple[str, ...]], int]:
    """The different n-grams of words of all texts, and how many n-grams there are in all; none crosses texts."""
    if n < 1:
        raise ValueError(f"n-grams have at least one word, not {n}")
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = text.split()
        found = list(zip(*(words[at:] for at in range(n)), strict=False))
        seen.update(found)
        total += len(found)
    return seen, total


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams over all n-grams; None where no text has n words. It falls with the size of the corpus: compare equal sizes."""
    seen, total = ngrams(texts, n)
    return len(seen) / total if total else None


def unique_share(groups: Iterable[Sequence[str]]) -> float | None:
    """The mean share of different texts among the responses to a prompt, of the prompts with several; None if there is none."""
    shares = [len(set(group)) / len(group) for group in groups if len(group) > 1]
    return sum(shares) / len(shares) if shares else None


def expectation_adjusted_distinct(distinct: int, total: int, vocabulary: int) -> float | None:
    """EAD (arXiv:2202.13587): different tokens over those expected of `total` even draws from a vocabulary of that size; None of no token.

    distinct / (V (1 - ((V - 1) / V)^C)). Unlike distinct-n it does not fall with the size of the corpus.
    """
    if not total:
        return None
    if vocabulary < 1:
        raise ValueError(f"a vocabulary has at least one token, not {vocabulary}")
    # Powers of numbers near 1 lose digits; log1p and expm1 keep them.
    expected = -vocabulary * math.expm1(total * math.log1p(-1 / vocabulary)) if vocabulary > 1 else 1.0
    return distinct / expected


def self_bleu(texts: Sequence[str]) -> float | None:
    """The mean BLEU-4 of each text against all others as its references (arXiv:1802.01886); 1 if all are equal.

    Matches are clipped to the most that one reference has, and the brevity penalty takes the reference whose length is closest
    (of two, the shorter). Orders that a text is too short for are left out, and no match in an order counts as MISSED
    matches (Chen and Cherry 2014, method 1). Texts without words are passed over; None of fewer than two others.
    """
    words = [each for text in texts if (each := text.split())]
    if len(words) < 2:
        return None
    counted = [[Counter(zip(*(each[at:] for at in range(n)), strict=False)) for n in range(1, N + 1)] for each in words]
    most = [_two_highest([counts[n] for counts in counted]) for n in range(N)]
    scores = [_bleu(at, counted[at], most, [len(each) for each in words]) for at in range(len(words))]
    return sum(scores) / len(scores)


_Highest = dict[tuple[str, ...], tuple[int, int, int]]
"""Of each n-gram: the most that a text has of it, which text that is, and the most that another one has."""


def _two_highest(counted: Sequence[Counter[tuple[str, ...]]]) -> _Highest:
    highest: _Highest = {}
    for at, counts in enumerate(counted):
        for gram, count in counts.items():
            first, who, second = highest.get(gram, (0, -1, 0))
            highest[gram] = (count, at, first) if count > first else (first, who, max(second, count))
    return highest


def _bleu(at: int, counted: Sequence[Counter[tuple[str, ...]]], most: Sequence[_Highest], lengths: Sequence[int]) -> float:
    """BLEU of text `at` against the others; `counted` are its own n-grams by order."""
    logs: list[float] = []
    for counts, highest in zip(counted, most, strict=True):
        total = counts.total()
        if not total:
            break
        matched = 0
        for gram, count in counts.items():
            first, who, second = highest[gram]
            matched += min(count, second if who == at else first)
        if not matched and not logs:
            return 0.0  # not one word in common
        logs.append(math.log((matched or MISSED) / total))
    closest = min((abs(length - lengths[at]), length) for i, length in enumerate(lengths) if i != at)[1]
    return math.exp(sum(logs) / len(logs) + min(0.0, 1 - closest / lengths[at]))
