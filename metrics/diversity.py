"""Diversity of sampled texts: distinct-n over a corpus (Li et al., arXiv:1510.03055), and how many of a group's answers differ.

Words are what whitespace separates. A collapse of the policy shows here before it shows in a score.
"""

from collections.abc import Iterable, Sequence


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
