"""Pairs along a ranking, as Online Self-Preferring makes them (arXiv:2405.14103); which scheme it used is not known.

Responses are ranked by score, the first of equals first. Pairs of equal scores are left out.
"""

from typing import Literal

from judges import Group
from pipeline.plugin import Settings
from rules import Pick, _scored

VERSION = 1


class Config(Settings):
    scheme: Literal["mirrored", "adjacent", "best_vs_rest", "all"] = "mirrored"
    """`mirrored`: first with last, second with last but one, and so on; `adjacent`: each with the next; the others by their names."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The pairs of a group, or why there is none: single, undecided, tie."""
    scored = _scored.decided(group)
    if reason := _scored.why_none(group, scored):
        return [], reason
    ranking = sorted(scored, key=lambda i: -_scored.score(group, i))
    picks = [Pick(a, b) for a, b in _couples(config.scheme, ranking) if _scored.score(group, a) > _scored.score(group, b)]
    return (picks, None) if picks else ([], "tie")


def _couples(scheme: str, ranking: list[int]) -> list[tuple[int, int]]:
    count = len(ranking)
    if scheme == "mirrored":
        return [(ranking[i], ranking[count - 1 - i]) for i in range(count // 2)]
    if scheme == "adjacent":
        return list(zip(ranking, ranking[1:], strict=False))
    first = ranking[:1] if scheme == "best_vs_rest" else ranking
    return [(a, b) for at, a in enumerate(first) for b in ranking[at + 1 :]]
