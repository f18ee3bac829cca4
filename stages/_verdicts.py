"""Verdicts as columns of the `judged` table, and what they say about the judge: ties, spread, length bias.

Statistics are sums, so that shards add up; `summary` turns the sums into the rates that a manifest reports.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa

from judges import Group, Verdict
from pipeline.artifact import Facts


def columns(verdicts: Sequence[Verdict]) -> dict[str, pa.Array]:
    """The three columns that judging adds: scores, wins, detail."""
    scores = pa.array(list(chain.from_iterable(v.scores for v in verdicts)), pa.float64())
    lines = [v.wins or () for v in verdicts]
    values = np.fromiter(chain.from_iterable(chain.from_iterable(lines)), np.float64)
    inner = pa.ListArray.from_arrays(_offsets(map(len, chain.from_iterable(lines))), pa.array(values))
    missing = pa.array([v.wins is None for v in verdicts], pa.bool_())
    details = [None if v.detail is None else json.dumps(v.detail, sort_keys=True, ensure_ascii=False) for v in verdicts]
    return {
        "scores": pa.ListArray.from_arrays(_offsets(len(v.scores) for v in verdicts), scores),
        "wins": pa.ListArray.from_arrays(_offsets(map(len, lines)), inner, mask=missing),
        "detail": pa.array(details, pa.string()),
    }


def check(groups: Sequence[Group], verdicts: Sequence[Verdict]) -> None:
    """Hold a judge to its contract: one verdict a group, one score a response, finite, and a square win table."""
    if len(verdicts) != len(groups):
        raise ValueError(f"the judge returned {len(verdicts)} verdicts for {len(groups)} groups")
    for group, verdict in zip(groups, verdicts, strict=True):
        count = len(group.responses)
        if len(verdict.scores) != count:
            raise ValueError(f"the judge returned {len(verdict.scores)} scores for the {count} responses of {group.id}")
        if verdict.wins is not None and (len(verdict.wins) != count or any(len(line) != count for line in verdict.wins)):
            raise ValueError(f"the judge returned a win table that is not {count} x {count} for {group.id}")
    scores = np.fromiter((s for v in verdicts for s in v.scores if s is not None), np.float64)
    if not np.isfinite(scores).all():
        bad = next(g.id for g, v in zip(groups, verdicts, strict=True) if not np.isfinite([s for s in v.scores if s is not None]).all())
        raise ValueError(f"the judge returned a score that is not a finite number for {bad}")


def statistics(groups: Sequence[Group], verdicts: Sequence[Verdict]) -> Facts:
    """Sums over some groups, to be added up by `total`."""
    by_size: dict[int, list[int]] = {}
    for at, group in enumerate(groups):
        by_size.setdefault(len(group.responses), []).append(at)
    parts = [_same_size([verdicts[at] for at in rows], [groups[at] for at in rows], size) for size, rows in by_size.items() if size]
    return total([{**_ZERO, "rows": len(groups)}, *({**part, "rows": 0} for part in parts)])


_ZERO: Facts = {
    "responses": 0, "undecided": 0, "groups_undecided": 0, "ties": 0, "score_sum": 0.0, "top": None, "at_top": 0,
    "spread_sum": 0.0, "spread_groups": 0, "longer_sum": 0.0, "longer_pairs": 0,
}  # fmt: skip


def _same_size(verdicts: list[Verdict], groups: list[Group], size: int) -> Facts:
    scores = np.array([v.scores for v in verdicts], np.float64)  # None becomes NaN
    lengths = np.array([[len(text) for text in g.responses] for g in groups])
    known = ~np.isnan(scores)
    top_of_row = np.where(known, scores, -np.inf).max(1)
    low_of_row = np.where(known, scores, np.inf).min(1)
    several = known.sum(1) > 1
    above, below = np.triu_indices(size, 1)
    comparable = known[:, above] & known[:, below] & (lengths[:, above] != lengths[:, below])
    longer = np.sign(scores[:, above] - scores[:, below]) * np.sign(lengths[:, above] - lengths[:, below])
    top = float(scores[known].max()) if known.any() else None
    return {
        "responses": int(known.size),
        "undecided": int((~known).sum()),
        "groups_undecided": int((~known).any(1).sum()),
        "ties": int(((scores == top_of_row[:, None]).sum(1) > 1).sum()),
        "score_sum": float(scores[known].sum()),
        "top": top,
        "at_top": int((scores == top).sum()) if top is not None else 0,
        "spread_sum": float((top_of_row - low_of_row)[several].sum()),
        "spread_groups": int(several.sum()),
        "longer_sum": float(((longer + 1) / 2)[comparable].sum()),
        "longer_pairs": int(comparable.sum()),
    }


def total(parts: Sequence[Facts]) -> Facts:
    """The sums of several parts; of the highest score, how many reached the highest of all."""
    tops = [part["top"] for part in parts if part["top"] is not None]
    top = max(tops) if tops else None
    summed = {name: sum(part[name] for part in parts) for name in parts[0] if name not in ("top", "at_top")}
    return {**summed, "top": top, "at_top": sum(part["at_top"] for part in parts if top is not None and part["top"] == top)}


def summary(sums: Facts) -> Facts:
    """The facts of a judged table: counts, and rates that are None where nothing could be compared."""
    decided = sums["responses"] - sums["undecided"]
    return {
        "rows": sums["rows"],
        "responses": sums["responses"],
        "undecided": sums["undecided"],
        "groups_undecided": sums["groups_undecided"],
        "ties": sums["ties"],
        "mean_score": ratio(sums["score_sum"], decided),
        "mean_spread": ratio(sums["spread_sum"], sums["spread_groups"]),
        "share_at_top": ratio(sums["at_top"], decided),
        "longer_wins": ratio(sums["longer_sum"], sums["longer_pairs"]),
    }


def ratio(part: float, whole: float) -> float | None:
    """part / whole to six digits, or None of nothing."""
    return round(part / whole, 6) if whole else None


def _offsets(lengths: Iterable[int]) -> Any:
    return pa.array(list(accumulate(lengths, initial=0)), pa.int32())
