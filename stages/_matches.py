"""What a judge says of two sides' responses to the same prompts, and how sure one can be; `source` says whose a response is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from judges import Group, Verdict, exact_answer
from metrics.win_rates import win
from pipeline.artifact import Facts
from stages import _columns, _verdicts

OURS, THEIRS = "candidates", "against"
"""The fields of `evaluate` that name them."""


def measured(table: pa.Table, groups: Sequence[Group], verdicts: Sequence[Verdict]) -> tuple[pa.Table, Facts]:
    """The judged table, and for each prompt what the report averages."""
    _verdicts.check(groups, verdicts)
    sides = _columns.rows_of(_columns.strings(_columns.flat(table, "responses"), "source"), _columns.spans(table, "responses"))
    ends = _columns.rows_of(_columns.strings(_columns.flat(table, "responses"), "finish_reason"), _columns.spans(table, "responses"))
    lines = [_measure(*each) for each in zip(groups, verdicts, sides, ends, strict=True)]
    for name, column in _verdicts.columns(verdicts).items():
        table = table.append_column(name, column)
    return table, {name: [line[name] for line in lines] for name in lines[0]}


def interval(values: list[float], confidence: float, resamples: int, seed: int) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the mean; (None, None) of nothing. Deterministic given the seed."""
    if not values:
        return None, None
    draw, sample = np.random.default_rng(seed), np.array(values)
    means = [sample[draw.integers(0, len(sample), len(sample))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return round(float(low), 6), round(float(high), 6)


def _measure(group: Group, verdict: Verdict, sides: Sequence[str], ends: Sequence[str]) -> dict[str, Any]:
    mine = [i for i, side in enumerate(sides) if side == OURS]
    other = [i for i, side in enumerate(sides) if side == THEIRS]
    answer = group.meta.get("answer")
    checked = exact_answer.has_reference(answer)

    def mean(values: list[Any]) -> float | None:
        known = [float(v) for v in values if v is not None]
        return sum(known) / len(known) if known else None

    def accuracy(side: list[int]) -> float | None:
        return mean([exact_answer.correct(group.responses[i], answer) for i in side]) if checked else None

    return {
        "responses": len(mine),
        "against_responses": len(other),
        "undecided": sum(score is None for score in verdict.scores),
        "truncated": mean([ends[i] == "length" for i in mine]),
        "characters": mean([len(group.responses[i]) for i in mine]),
        "against_characters": mean([len(group.responses[i]) for i in other]),
        "score": mean([verdict.scores[i] for i in mine]),
        "against_score": mean([verdict.scores[i] for i in other]),
        "accuracy": accuracy(mine),
        "against_accuracy": accuracy(other),
        "win_rate": mean([_win(verdict, i, j) for i in mine for j in other]),
    }


def _win(verdict: Verdict, i: int, j: int) -> float | None:
    if verdict.wins is not None:
        return verdict.wins[i][j]
    return win(verdict.scores[i], verdict.scores[j])
