"""Verdicts as columns of the `judged` table, and what they say about the judge: ties, spread, length bias, cycles.

Statistics are sums, so that shards add up; `summary` turns the sums into the rates that a manifest reports. What a
judge observed of itself (`Verdict.tally`) is added up alongside, whatever its names.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, combinations

import numpy as np
import pyarrow as pa

from judges import Group, Verdict
from pipeline import ragged
from pipeline.artifact import Facts


def columns(verdicts: Sequence[Verdict]) -> dict[str, pa.Array]:
    """The three columns that judging adds: scores, wins, detail."""
    scores = pa.array(list(chain.from_iterable(v.scores for v in verdicts)), pa.float64())
    lines = [v.wins or () for v in verdicts]
    values = np.fromiter(chain.from_iterable(chain.from_iterable(lines)), np.float64)
    inner = ragged.lists(pa.array(values), map(len, chain.from_iterable(lines)))
    missing = pa.array([v.wins is None for v in verdicts], pa.bool_())
    details = [None if v.detail is None else json.dumps(v.detail, sort_keys=True, ensure_ascii=False) for v in verdicts]
    return {
        "scores": ragged.lists(scores, (len(v.scores) for v in verdicts)),
        "wins": ragged.lists(inner, map(len, lines), missing),
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
    return total([{**_ZERO, "rows": len(groups), "tally": _tally(verdicts)}, *({**part, "rows": 0} for part in parts)])


_ZERO: Facts = {
    "responses": 0, "undecided": 0, "groups_undecided": 0, "ties": 0, "score_sum": 0.0, "top": None, "at_top": 0,
    "spread_sum": 0.0, "spread_groups": 0, "longer_sum": 0.0, "longer_pairs": 0, "cycles": 0, "triples": 0,
}  # fmt: skip


def _tally(verdicts: Sequence[Verdict]) -> dict[str, list[float]]:
    return _added({name: list(value) for name, value in v.tally.items()} for v in verdicts if v.tally)


def _added(tallies: Iterable[dict[str, list[float]]]) -> dict[str, list[float]]:
    sums: dict[str, list[float]] = {}
    for tally in tallies:
        for name, (part, whole) in tally.items():
            held = sums.setdefault(name, [0.0, 0.0])
            held[0] += part
            held[1] += whole
    return sums


def _cycles(verdicts: Sequence[Verdict], size: int) -> tuple[int, int]:
    """Triples of responses of which each beats the next (P > 1/2) all the way round, and triples that have winners."""
    if size < 3:
        return 0, 0
    # Judges without doubts share a few tables: each is looked at once.
    tables = {id(v.wins): v.wins for v in verdicts if v.wins is not None}
    if not tables:
        return 0, 0
    counts = Counter(id(v.wins) for v in verdicts if v.wins is not None)
    beats = np.array(list(tables.values())) > 0.5
    times = np.array([counts[key] for key in tables])
    i, j, k = (np.array(each) for each in zip(*combinations(range(size), 3), strict=True))
    forwards = beats[:, i, j] & beats[:, j, k] & beats[:, k, i]
    backwards = beats[:, j, i] & beats[:, k, j] & beats[:, i, k]
    named = beats | beats.transpose(0, 2, 1)
    decided = named[:, i, j] & named[:, j, k] & named[:, i, k]
    return int((times @ (forwards | backwards)).sum()), int((times @ decided).sum())


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
    cycles, triples = _cycles(verdicts, size)
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
        "cycles": cycles,
        "triples": triples,
    }


def total(parts: Sequence[Facts]) -> Facts:
    """The sums of several parts; of the highest score, how many reached the highest of all; tallies by name."""
    tops = [part["top"] for part in parts if part["top"] is not None]
    top = max(tops) if tops else None
    summed: Facts = {name: sum(part[name] for part in parts) for name in parts[0] if name not in ("top", "at_top", "tally")}
    summed["tally"] = _added(part["tally"] for part in parts if "tally" in part)
    return {**summed, "top": top, "at_top": sum(part["at_top"] for part in parts if top is not None and part["top"] == top)}


def summary(sums: Facts) -> Facts:
    """The facts of a judged table: counts, and rates that are None where nothing could be compared.

    The rates of the judge's own tally stand in `judge`; how often what a rate counts could be observed stands in `observations`.
    """
    decided = sums["responses"] - sums["undecided"]
    tally = sorted(sums["tally"].items())
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
        "cycles": ratio(sums["cycles"], sums["triples"]),
        "judge": {name: ratio(part, whole) for name, (part, whole) in tally},
        "observations": {
            **{name: round(whole, 6) for name, (_, whole) in tally},
            "longer_wins": sums["longer_pairs"],
            "cycles": sums["triples"],
        },
    }


def rates(facts: Facts) -> dict[str, tuple[float | None, float]]:
    """Everything in `summary`'s facts that can have a limit: name -> rate and the observations behind it."""
    groups, decided, counts = facts["rows"], facts["responses"] - facts["undecided"], facts["observations"]
    known = {"longer_wins": facts["longer_wins"], "cycles": facts["cycles"], **facts["judge"]}
    ours = {"ties": (ratio(facts["ties"], groups), groups), "share_at_top": (facts["share_at_top"], decided)}
    return {**ours, **{name: (rate, counts[name]) for name, rate in known.items()}}


def remedy(rate: str) -> str:
    """What to do about a rate beyond its limit."""
    return _REMEDIES.get(rate, "look at the verdicts with `rematch show`, and at what the judge is asked")


RATES = (
    "ties", "share_at_top", "longer_wins", "cycles", "position_rate", "order_flips", "parse_failures", "sample_agreement", "too_long",
    "calls_per_prompt", "cached_share", "option_mass", "neutralised", "without_anchor", "ahead_of_anchor", "anchor_overlap",
    "judge_spread", "judge_agreement", "final_upset",
)  # fmt: skip
"""The rates of the judges that are shipped."""

_REMEDIES = {
    "position_rate": "use another judge or prompt, or `mode: prob` where it is a pairwise judge",
    "order_flips": "use another judge, or `mode: prob`, which averages the orders",
    "ties": "use more samples, a finer scale, or `read: probabilities`",
    "share_at_top": "use a scale with room above, or compare pairs",
    "parse_failures": "look at the judge's answers in the detail, or raise its max_new_tokens",
    "sample_agreement": "use more samples, a lower temperature or another judge",
    "longer_wins": "use another judge, or a pair rule that weighs length",
    "cycles": "use another judge, or compare with an anchor",
    "neutralised": "look at the responses: the policy may have learned to address its judge",
}


def ratio(part: float, whole: float) -> float | None:
    """part / whole to six digits, or None of nothing."""
    return round(part / whole, 6) if whole else None
