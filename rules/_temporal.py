"""The choice of Temporal Self-Rewarding's phase 1 (arXiv:2508.06026), which its phase 2 starts from.

Published only as prose; from a detailed summary of the paper, whose strict inequalities are kept.
"""

from judges import Group
from rules import _scored


def anchored(group: Group, past: str | None, ahead: str | None, rule: str) -> tuple[int, int, str | None]:
    """Indices of phase 1's chosen and rejected response, before any comparison of the two; or the reason for none.

    Neither `past` nor `ahead` responses are the present's. Undecided ones are passed over on every side.
    """
    if reason := _scored.why_none(group, _scored.decided(group)):
        return 0, 0, reason
    theirs = _scored.made_by(group, past, rule) if past is not None else []
    later = _scored.made_by(group, ahead, rule) if ahead is not None else []
    present = _scored.decided(group, [i for i in range(len(group.responses)) if i not in theirs and i not in later])
    if not present:
        return 0, 0, "undecided"
    chosen, rejected = _scored.best(group, present), _scored.worst(group, present)
    before = _scored.decided(group, theirs)
    if before:
        lowest = _scored.worst(group, before)
        if _scored.score(group, lowest) < _scored.score(group, rejected):
            rejected = lowest
    return chosen, rejected, None
