"""Ranks candidates by how they stand to an anchor: a gold answer, a teacher's response, or a past policy's.

Works on top of any other judge. One that compares pairs compares each candidate with the anchor only, 2(K-1) calls
(OSP, arXiv:2405.14103); one that grades responses grades the anchor too (PU-RL, arXiv:2601.20687). Anchors tempt a
judge to reward copies, so the facts say how much of the best response stands in the anchor (`anchor_overlap`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import model_validator

from judges import Group, Verdict, of
from judges import uses as uses_of
from pipeline.placement import NOTHING, Need
from pipeline.plugin import Choice, Picks, Settings
from pipeline.tools import Tools

VERSION = 1
USES = NOTHING
_WORDS = 4
"""Length of the runs of words that count as copied."""


class Config(Settings):
    judge: Annotated[Choice, Picks("judges")]
    """Who compares, or grades."""
    source: str | None = None
    """Who made the anchor: a node, or the address of a step; the group's first response of that `source` is it."""
    meta: str | None = None
    """The field of the prompt's `meta` that holds the anchor's text; it is judged along with the candidates."""
    by: Literal["score", "win_rate"] = "score"
    """A candidate's score: its own minus the anchor's (who is then at 0); or P(it beats the anchor), for judges with win tables."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if (self.source is None) == (self.meta is None):
            raise ValueError("needs `source` (who made the anchor) or `meta` (the field that holds it), and not both")
        return self


def uses(config: Config) -> frozenset[Need]:
    """Whatever the judge below needs."""
    return uses_of(config.judge)


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """Judge each group with its anchor; a group without one is undecided."""
    anchored = [_with_anchor(config, group) for group in groups]
    verdicts = iter(of(config.judge).judge(config.judge.config, [g for g in anchored if g is not None], tools.of("judge")))
    return [
        Verdict((None,) * len(group.responses), tally={"without_anchor": (1, 1)})
        if with_anchor is None
        else _relative(config, group, with_anchor, next(verdicts))
        for group, with_anchor in zip(groups, anchored, strict=True)
    ]


def _with_anchor(config: Config, group: Group) -> Group | None:
    """The group with its anchor named; one from `meta` is put after the responses."""
    if config.meta is not None:
        text = group.meta.get(config.meta)
        if text is None or not str(text).strip():
            return None
        sources = (*group.sources, "anchor") if group.sources else ()
        return replace(group, responses=(*group.responses, str(text)), sources=sources, anchor=len(group.responses))
    for at, source in enumerate(group.sources):
        if config.source in (source, source.rpartition("/")[2]):
            return replace(group, anchor=at)
    return None


def _relative(config: Config, group: Group, anchored: Group, verdict: Verdict) -> Verdict:
    count, at = len(group.responses), anchored.anchor
    assert at is not None
    base, wins = verdict.scores[at], verdict.wins
    if config.by == "score":
        scores = tuple(None if score is None or base is None else score - base for score in verdict.scores[:count])
    else:
        scores = tuple(line[at] for line in wins[:count]) if wins is not None else (None,) * count
    tally = dict(verdict.tally or {}) | {"without_anchor": (0, 1)}
    ahead = [score > (0 if config.by == "score" else 0.5) for i, score in enumerate(scores) if score is not None and i != at]
    tally["ahead_of_anchor"] = (sum(ahead), len(ahead))
    best = max((score, -i) for i, score in enumerate(scores) if score is not None and i != at) if ahead else None
    if best is not None:
        tally["anchor_overlap"] = (_copied(group.responses[-best[1]], anchored.responses[at]), 1)
    detail: dict[str, object] = {"anchor": at if at < count else None, "anchor_score": base, "judge": verdict.detail}
    kept = None if wins is None or None in scores else tuple(line[:count] for line in wins[:count])
    return Verdict(scores, kept, detail, tally)


def _copied(text: str, anchor: str) -> float:
    """The share of a text's runs of four words that stand in the anchor too; of a shorter text, of its words."""
    words, others = text.split(), anchor.split()
    size = min(_WORDS, max(len(words), 1))
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    known = {tuple(others[i : i + size]) for i in range(len(others) - size + 1)}
    return sum(run in known for run in runs) / len(runs) if runs else 0.0
