"""The future's best where it beats the present's: Temporal Self-Rewarding's phase 2 (arXiv:2508.06026, future-guided chosen).

The chosen response is the best of the future model's if that scores strictly more than the best of the present's, and
phase 1's otherwise; the rejected one stays phase 1's (see `anchored`). A pair needs a strictly higher score of its
chosen response, so a prompt can have a pair here and none in phase 1. All scores are one judge's: judge the future's
responses alone and pair both judged tables, so that phase 1's are not scored again.
"""

from judges import Group
from pipeline.plugin import Settings
from rules import Pick, _scored, _temporal

VERSION = 1


class Config(Settings):
    past: str | None = None
    """The node that made the past's responses. None: there are none, as in round one, whose policy is the past's own."""
    ahead: str | None = None
    """The node that made the future model's responses. None: there are none, which is phase 1."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The one pair of a group, or why there is none: single, undecided, tie."""
    chosen, rejected, reason = _temporal.anchored(group, config.past, config.ahead, "future_guided")
    if reason:
        return [], reason
    later = _scored.decided(group, _scored.made_by(group, config.ahead, "future_guided")) if config.ahead is not None else []
    if later:
        first = _scored.best(group, later)
        if _scored.score(group, first) > _scored.score(group, chosen):
            chosen = first
    if not _scored.score(group, chosen) > _scored.score(group, rejected):
        return [], "tie"
    return [Pick(chosen, rejected)], None
