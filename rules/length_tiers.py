"""The shortest of the best against the longest of the worst: Meta-Rewarding's length control (arXiv:2407.19594).

With D = highest - lowest score, the chosen response is the shortest of those within rho * D of the highest, the
rejected one the longest of those within rho * D of the lowest. Of equally long ones the better is chosen and the worse
rejected, then the first; with rho = 0 that is the best and the worst.
"""

from pydantic import Field

from judges import Group
from pipeline.plugin import Settings
from rules import Pick, _scored

VERSION = 1


class Config(Settings):
    rho: float = Field(0.0, ge=0, lt=0.5)
    """Width of both tiers as a share of D; from 0.5 on they would overlap. The paper's: 0, 0.32, 0.32, 0.4 by round."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The one pair of a group, or why there is none: single, undecided, tie (all score the same)."""
    scored = _scored.decided(group)
    if reason := _scored.why_none(group, scored):
        return [], reason
    values = {i: _scored.score(group, i) for i in scored}
    highest, lowest = max(values.values()), min(values.values())
    if highest == lowest:
        return [], "tie"
    # The tiers are closed intervals, and means of scores are not exact in binary.
    width = (config.rho + _scored.SLACK) * (highest - lowest)
    chosen = min((i for i in scored if values[i] >= highest - width), key=lambda i: (len(group.responses[i]), -values[i]))
    rejected = max((i for i in scored if values[i] <= lowest + width), key=lambda i: (len(group.responses[i]), -values[i]))
    return [Pick(chosen, rejected)], None
