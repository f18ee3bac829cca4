"""Judges by length alone: a baseline that shows what a length bias would do, and a judge fast enough for load tests.

Lengths are of the text, in Unicode code points or whitespace-separated words. A length is always known, so
nothing is undecided; equal lengths tie.
"""

from collections.abc import Sequence
from typing import Any, Literal

from judges import Group, Verdict
from metrics.win_rates import wins_certain
from pipeline.placement import NOTHING
from pipeline.plugin import Settings

VERSION = 1
USES = NOTHING


class Config(Settings):
    unit: Literal["characters", "words"] = "characters"
    """What is counted."""
    prefer: Literal["longer", "shorter"] = "longer"
    """Which response scores higher; a shorter one scores minus its length."""


def judge(config: Config, groups: Sequence[Group], tools: Any) -> list[Verdict]:
    """Score each response by its length."""
    sign = 1.0 if config.prefer == "longer" else -1.0
    words = config.unit == "words"
    verdicts: list[Verdict] = []
    for group in groups:
        lengths = [len(text.split()) for text in group.responses] if words else map(len, group.responses)
        scores = tuple([sign * length for length in lengths])
        verdicts.append(Verdict(scores, wins_certain(scores)))
    return verdicts
