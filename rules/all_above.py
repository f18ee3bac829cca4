"""Every pair whose scores differ by at least a threshold, whoever made the responses. Source: ours.

DNO reports that a margin of 1 on a scale of 10 did better than all pairs (arXiv:2404.03715, section 6); its own rule,
with teachers and a least positive score, is `margin`.
"""

from pydantic import Field

from judges import Group
from pipeline.plugin import Settings
from rules import Pick, _scored

VERSION = 1


class Config(Settings):
    min_gap: float = Field(0.0, ge=0)
    """Least difference of the scores; equal scores never make a pair."""
    min_chosen: float | None = None
    """Least score of a chosen response. None: any."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """All qualifying pairs, best chosen first, or why there is none: single, undecided, tie, gap, no_positive."""
    scored = _scored.decided(group)
    if reason := _scored.why_none(group, scored):
        return [], reason
    values = {i: _scored.score(group, i) for i in scored}
    if len(set(values.values())) == 1:
        return [], "tie"
    order = sorted(scored, key=lambda i: -values[i])
    good = [i for i in order if config.min_chosen is None or values[i] >= config.min_chosen]
    picks = [Pick(a, b) for a in good for b in order if values[a] > values[b] and _scored.leads(group, a, b, config.min_gap)]
    return (picks, None) if picks else ([], "gap" if good else "no_positive")
