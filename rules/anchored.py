"""The present's best against the past's worst: Temporal Self-Rewarding's phase 1 (arXiv:2508.06026, anchored rejection).

The chosen response is the best of the present's. The rejected one is the worst of the past's if that scores strictly
less than the worst of the present's, which otherwise is the rejected one. A pair needs a strictly higher score of its
chosen response. The present is whatever the node `past` did not make.
"""

from judges import Group
from pipeline.plugin import Settings
from rules import Pick, _scored, _temporal

VERSION = 1


class Config(Settings):
    past: str | None = None
    """The node that made the past's responses. None: there are none, as in round one, whose policy is the past's own."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The one pair of a group, or why there is none: single, undecided, tie."""
    chosen, rejected, reason = _temporal.anchored(group, config.past, None, "anchored")
    if reason:
        return [], reason
    if not _scored.score(group, chosen) > _scored.score(group, rejected):
        return [], "tie"
    return [Pick(chosen, rejected)], None
