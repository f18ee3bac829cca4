"""Pairs the best response of a group with its worst: one pair a prompt, as SPPO does (arXiv:2405.00675, section 4).

Equal scores go to the first index, on both sides, which is what numpy's argmax and argmin do in the published
code. That code filters nothing: `tie: keep` and `identical: keep` give its pairs, a response against itself
included.
"""

from typing import Literal

from judges import Group
from pipeline.errors import Refusal
from pipeline.plugin import Settings
from rules import Pick, verdict

VERSION = 1


class Config(Settings):
    by: Literal["score", "win_rate"] = "score"
    """What best and worst mean; `win_rate` is the mean of a response's row of the win table."""
    tie: Literal["drop", "keep"] = "drop"
    """A group whose best and worst are equally good."""
    identical: Literal["drop", "keep"] = "drop"
    """A pair of equal texts."""
    empty: Literal["drop", "keep"] = "drop"
    """A pair with a response that is empty or white space."""
    truncated: Literal["keep", "drop_chosen", "drop"] = "keep"
    """A pair with a response that ended at the length limit: kept, dropped if it is the chosen one, or dropped if either is."""
    undecided: Literal["skip", "drop"] = "skip"
    """Responses without a score: pass over them, or drop the whole group."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The one pair of a group, or why there is none: single, undecided, tie, identical, empty or truncated."""
    if len(group.responses) < 2:
        return [], "single"
    values = _values(config, group)
    decided = [i for i, value in enumerate(values) if value is not None]
    if len(decided) < 2 or (config.undecided == "drop" and len(decided) < len(values)):
        return [], "undecided"
    best = max(decided, key=values.__getitem__)  # type: ignore[arg-type]
    worst = min(decided, key=values.__getitem__)  # type: ignore[arg-type]
    reason = _reason(config, group, best, worst, tie=values[best] == values[worst])
    return ([], reason) if reason else ([Pick(best, worst)], None)


def _values(config: Config, group: Group) -> tuple[float | None, ...]:
    if config.by == "score":
        return verdict(group).scores
    wins = verdict(group).wins
    if wins is None:
        if None in verdict(group).scores:
            return (None,) * len(verdict(group).scores)
        raise Refusal("rule best_vs_worst: `by: win_rate` needs a win table and this judge makes none; use `by: score`")
    return tuple(sum(row) / len(row) for row in wins)


def _reason(config: Config, group: Group, best: int, worst: int, *, tie: bool) -> str | None:
    chosen, rejected = group.responses[best], group.responses[worst]
    if tie and config.tie == "drop":
        return "tie"
    if chosen == rejected and config.identical == "drop":
        return "identical"
    if config.empty == "drop" and not (chosen.strip() and rejected.strip()):
        return "empty"
    if config.truncated != "keep":
        cut = (group.finish_reasons[best], group.finish_reasons[worst] if config.truncated == "drop" else "stop")
        if "length" in cut:
            return "truncated"
    return None
