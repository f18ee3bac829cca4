"""Judges by edit similarity with the reference answer: a graded preference for tasks whose answer is known.

score = 1 - d(response, answer) / max(length), d the Levenshtein distance over code points, by the bit-vector
recurrence of Hyyro (2003). Undecided (None) where `meta` holds no `answer`. With `scale`, the win table is
logistic in the difference of scores (Bradley-Terry, 1952); without, the better response always wins.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from judges import Group, Verdict
from metrics.win_rates import wins_aggregated, wins_certain
from pipeline.placement import NOTHING
from pipeline.plugin import Settings

VERSION = 1
USES = NOTHING


class Config(Settings):
    scale: float | None = Field(None, gt=0)
    """P(i beats j) = sigmoid(scale * (score_i - score_j)); if not given, 1, 0.5 or 0."""


def judge(config: Config, groups: Sequence[Group], tools: Any) -> list[Verdict]:
    """Score each response by its edit similarity with `meta.answer`, in [0, 1]."""
    return [_verdict(config, group) for group in groups]


def similarity(a: str, b: str) -> float:
    """Edit similarity of two texts in [0, 1], 1 for equal ones; white space at the ends does not count."""
    a, b = a.strip(), b.strip()
    longest = max(len(a), len(b))
    return 1.0 - distance(a, b) / longest if longest else 1.0


def distance(a: str, b: str) -> int:
    """Levenshtein distance. Column by column of the usual table, each column packed into two integers."""
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for at, char in enumerate(a):
        places[char] = places.get(char, 0) | (1 << at)
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, result = full, 0, len(a)  # where the column rises or falls by one, and its last entry
    for char in b:
        same = places.get(char, 0)
        diagonal = ((((same & up) + up) ^ up) | same | down) & full
        right_up, right_down = down | (full & ~(diagonal | up)), diagonal & up
        result += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = ((right_up << 1) | 1) & full, (right_down << 1) & full
        up, down = right_down | (full & ~(diagonal | right_up)), diagonal & right_up
    return result


def _verdict(config: Config, group: Group) -> Verdict:
    answer = group.meta.get("answer")
    if answer is None:
        return Verdict((None,) * len(group.responses))
    scores = tuple(similarity(text, str(answer)) for text in group.responses)
    return Verdict(scores, wins_certain(scores) if config.scale is None else wins_aggregated(scores, config.scale))
