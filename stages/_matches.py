"""Two sides' responses to the same prompts as one table, what a judge says of them, and how sure one can be.

Rows are joined by id, whatever the order of the second table; prompts that only one side answered are refused,
because a comparison over part of the prompts is another measurement.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from judges import Group, Verdict, exact_answer
from metrics.win_rates import wins_certain
from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.tools import Tools
from stages import _columns, _verdicts

OURS, THEIRS = "candidates", "against"


def join(ours: Path, theirs: Path | None, tools: Tools) -> Path:
    """Write the joined candidates below the step's work folder; the `source` of a response says whose it is."""
    folder, part = tools.work / "matches", tools.work / "matches.part"
    if not folder.exists():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        rows.write(part, "candidates", _joined(ours, theirs, tools))
        part.rename(folder)
    return folder


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
    mine, other = verdict.scores[i], verdict.scores[j]
    certain = wins_certain((mine, other))
    return certain[0][1] if certain else None


def _joined(ours: Path, theirs: Path | None, tools: Tools) -> Iterator[pa.Table]:
    if theirs is None:
        for table in rows.stream(ours):
            yield _marked(table, OURS)
        return
    other = _in_order_of(ours, theirs, tools)
    ahead: pa.Table | None = None
    for mine in rows.stream(ours):
        # Row groups are cut by bytes, so those of the two tables need not hold the same rows.
        while ahead is None or ahead.num_rows < mine.num_rows:
            more = next(other).select(["id", "responses"])
            ahead = more if ahead is None else pa.concat_tables([ahead, more])
        left, right = _marked(mine, OURS), _marked(ahead.slice(0, mine.num_rows), THEIRS)
        ahead = ahead.slice(mine.num_rows)
        yield left.set_column(left.schema.get_field_index("responses"), "responses", _side_by_side(left, right))


def _in_order_of(ours: Path, theirs: Path, tools: Tools) -> Iterator[pa.Table]:
    """The rows of `theirs` in the order of `ours`, in portions of any size."""
    mine = [i for table in rows.stream(ours, ["id"]) for i in table["id"].to_pylist()]
    place = {i: at for at, i in enumerate(i for table in rows.stream(theirs, ["id"]) for i in table["id"].to_pylist())}
    only_mine, only_theirs = [i for i in mine if i not in place], len(place.keys() - set(mine))
    if only_mine or only_theirs:
        raise Refusal(
            f"{tools.address}: `candidates` and `against` answer different prompts ({len(only_mine)} of {len(mine)} have no counterpart, "
            f"{only_theirs} of {len(place)} the other way); generate both from the same prompts node"
        )
    if [place[i] for i in mine] == list(range(len(mine))):
        yield from rows.stream(theirs)
        return
    whole = rows.read(theirs, ["id", "responses"])
    for start in range(0, len(mine), rows.GROUP_ROWS):
        yield whole.take(pa.array([place[i] for i in mine[start : start + rows.GROUP_ROWS]], pa.int64()))


def _marked(table: pa.Table, side: str) -> pa.Table:
    column = table["responses"].combine_chunks()
    items = column.flatten()
    marked = _columns.changed(items, source=pa.repeat(pa.scalar(side), len(items)))
    offsets = [start for start, _ in _columns.spans(table, "responses")]
    made = pa.ListArray.from_arrays(pa.array([*offsets, len(items)], pa.int32()), marked)
    return table.set_column(table.schema.get_field_index("responses"), "responses", made)


def _side_by_side(left: pa.Table, right: pa.Table) -> pa.ListArray:
    """The responses of both tables, row by row, the left ones first."""
    ours, theirs = _columns.flat(left, "responses"), _columns.flat(right, "responses")
    order: list[int] = []
    offsets = [0]
    pairs = zip(_columns.spans(left, "responses"), _columns.spans(right, "responses"), strict=True)
    for (a, b), (c, d) in pairs:
        order += [*range(a, b), *range(len(ours) + c, len(ours) + d)]
        offsets.append(len(order))
    both = pa.concat_arrays([ours, theirs])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), both.take(pa.array(order, pa.int64())))
