"""Every pair with a good enough positive and a wide enough gap, as DNO makes them (arXiv:2404.03715, section 5.1).

A positive scores at least `min_positive`. A teacher's positive is paired with whatever scores `teacher_gap` less or
lower, the policy's own with whatever scores `own_gap` less or lower, the teacher's answer included. Heavily repetitive
responses are negatives whatever their score, and never positives; how the paper measures repetition is not known.
"""

from pydantic import Field

from judges import Group
from metrics import ngrams
from pipeline.plugin import Settings
from rules import Pick, _scored

VERSION = 1


class Config(Settings):
    teacher: str | None = None
    """Node (or source) of the teacher's answers, such as `demonstration` for those of the stage `demonstrations`. None: there are none."""
    min_positive: float = 5.0
    """Least score of a chosen response; the paper's, on a scale of 6."""
    teacher_gap: float = Field(2.0, gt=0)
    """By how much a teacher's answer must lead."""
    own_gap: float = Field(1.0, gt=0)
    """By how much the policy's own response must lead."""
    repetitive: float | None = Field(None, gt=0, le=1)
    """Share of repeated 4-grams from which a response is a negative whatever its score. None: nobody looks."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """All qualifying pairs, or why there is none: single, undecided, no_positive, gap."""
    flagged = {i for i, text in enumerate(group.responses) if config.repetitive is not None and ngrams.repeated(text) >= config.repetitive}
    scored = _scored.decided(group)
    usable = sorted(flagged.union(scored))
    if reason := _scored.why_none(group, usable):
        return [], reason
    teachers = set(_scored.made_by(group, config.teacher, "margin")) if config.teacher is not None else set[int]()
    positives = [i for i in scored if i not in flagged and _scored.score(group, i) >= config.min_positive]
    picks: list[Pick] = []
    for positive in positives:
        gap = config.teacher_gap if positive in teachers else config.own_gap
        for negative in usable:
            if negative in flagged or (negative != positive and _scored.leads(group, positive, negative, gap)):
                picks.append(Pick(positive, negative))
    return (picks, None) if picks else ([], "gap" if positives else "no_positive")
