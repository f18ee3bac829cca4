"""Between Arrow columns and the Python values that judges and rules look at, whole columns at a time.

Rows reach stages by the hundred thousand: what is not looked at stays in Arrow, and no row becomes a dict.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from judges import Group, Verdict
from models.messages import Message

Spans = list[tuple[int, int]]
"""Where each row's items lie in the flattened column."""


def flat(table: pa.Table, column: str) -> Any:
    """The items of a list column as one array, rows joined."""
    return table[column].combine_chunks().flatten()


def spans(table: pa.Table, column: str) -> Spans:
    """Where each row's items lie in `flat(table, column)`."""
    lengths = pc.fill_null(pc.list_value_length(table[column]), 0).to_pylist()
    return list(pairwise(accumulate(lengths, initial=0)))


def rows_of(values: Sequence[Any], where: Spans) -> Iterator[tuple[Any, ...]]:
    """The flattened values cut into rows again."""
    for start, stop in where:
        yield tuple(values[start:stop])


def strings(responses: Any, name: str) -> list[str]:
    """One text field of flattened responses; a null is the empty text."""
    return cast(list[str], pc.fill_null(pc.struct_field(responses, name), "").to_pylist())


def groups(table: pa.Table) -> list[Group]:
    """What judges and rules look at, for each row of a `candidates` or `judged` table."""
    responses, where = flat(table, "responses"), spans(table, "responses")
    texts, sources, ends = (rows_of(strings(responses, name), where) for name in ("text", "source", "finish_reason"))
    metas = [json.loads(text) if text else {} for text in table["meta"].to_pylist()]
    said = verdicts(table) if "scores" in table.column_names else [None] * table.num_rows
    columns = (table["id"].to_pylist(), _prompts(table), texts, metas, sources, ends, said)
    return [Group(*each[:-1], verdict=each[-1]) for each in zip(*columns, strict=True)]


def verdicts(table: pa.Table) -> list[Verdict]:
    """What the judge of a `judged` table said of each row."""
    scores = rows_of(flat(table, "scores").to_pylist(), spans(table, "scores"))
    details = [json.loads(text) if text else None for text in table["detail"].to_pylist()]
    return [Verdict(*each) for each in zip(scores, wins(table), details, strict=True)]


def wins(table: pa.Table) -> list[tuple[tuple[float, ...], ...] | None]:
    """The win tables of a `judged` table, K x K each, or None."""
    inner = flat(table, "wins")
    values = inner.flatten().to_numpy().tolist()
    lengths = pc.list_value_length(inner).to_pylist()
    lines = list(rows_of(values, list(pairwise(accumulate(lengths, initial=0)))))
    known = pc.is_valid(table["wins"]).to_pylist()
    return [line if is_known else None for line, is_known in zip(rows_of(lines, spans(table, "wins")), known, strict=True)]


def _prompts(table: pa.Table) -> Iterator[tuple[Message, ...]]:
    messages = flat(table, "prompt")
    made = [{"role": r, "content": c} for r, c in zip(strings(messages, "role"), strings(messages, "content"), strict=True)]
    return rows_of(made, spans(table, "prompt"))
