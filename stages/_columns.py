"""Between Arrow columns and the Python values that judges and rules look at, whole columns at a time.

Rows reach stages by the hundred thousand: what is not looked at stays in Arrow, and no row becomes a dict.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa

from judges import Group, Verdict
from models.messages import Message, known
from pipeline.errors import Refusal
from pipeline.ragged import pc
from pipeline.rows import RESPONSE

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


def responses(count: int, **fields: Any) -> pa.StructArray:
    """So many responses, of columns by the names of their fields; what is not given is null."""
    if strange := fields.keys() - {field.name for field in RESPONSE}:
        raise TypeError(f"responses have no field {sorted(strange)[0]!r}")
    columns = [fields.get(field.name, pa.nulls(count, field.type)) for field in RESPONSE]
    return pa.StructArray.from_arrays(columns, fields=list(RESPONSE))


def changed(made: Any, **fields: Any) -> pa.StructArray:
    """Flattened responses with some of their fields replaced by other columns."""
    return responses(len(made), **{field.name: pc.struct_field(made, field.name) for field in RESPONSE} | fields)


def of_pairs(table: pa.Table, side: str) -> pa.StructArray:
    """The `chosen` or `rejected` of each pair as a response; its text is what was said last."""
    said, where = table[side].combine_chunks(), spans(table, side)
    last = pa.array([stop - 1 if stop > start else None for start, stop in where], pa.int64())
    closing = said.flatten().take(last)
    lone = pc.and_(pc.equal(pc.list_value_length(said), 1), pc.is_null(pc.struct_field(closing, "tool_calls")))
    return responses(
        table.num_rows,
        text=pc.fill_null(pc.struct_field(closing, "content"), ""),
        token_ids=table[f"{side}_token_ids"].combine_chunks(),
        mask=table[f"{side}_mask"].combine_chunks(),
        messages=pc.if_else(lone, pa.scalar(None, said.type), said),
    )


def trained_ids(made: Any) -> pa.ListArray:
    """Of flattened responses, the token ids that their masks leave to train on; null where there are no ids."""
    ids, masks = pc.struct_field(made, "token_ids"), pc.struct_field(made, "mask")
    masked = pc.and_(pc.is_valid(masks), pc.is_valid(ids)).to_numpy(zero_copy_only=False)
    if not masked.any():
        return ids
    counts, flags = (pc.fill_null(pc.list_value_length(each), 0).to_numpy() for each in (ids, masks))
    if wrong := np.flatnonzero(masked & (counts != flags)).tolist():
        raise Refusal(
            f"responses: {len(wrong)} have a mask that does not fit, the first one {flags[wrong[0]]} flags for {counts[wrong[0]]} tokens; "
            "give one flag for each token"
        )
    kept_R = np.ones(int(counts.sum()), bool)
    kept_R[np.repeat(masked, counts)] = masks.filter(pa.array(masked)).flatten().to_numpy(zero_copy_only=False)
    left = np.bincount(np.repeat(np.arange(len(ids)), counts), kept_R, len(ids)).astype(np.int32)
    offsets = pa.array(np.concatenate([[0], np.cumsum(left)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, ids.flatten().filter(pa.array(kept_R)), mask=pc.is_null(ids))


def messages(column: Any) -> list[list[Message]]:
    """The conversations of a column, without the keys that are null in a message."""
    return [[known(message) for message in said] for said in column.to_pylist()]


def groups(table: pa.Table) -> list[Group]:
    """What judges and rules look at, for each row of a `candidates` or `judged` table."""
    made, where = flat(table, "responses"), spans(table, "responses")
    texts, sources, ends = (rows_of(strings(made, name), where) for name in ("text", "source", "finish_reason"))
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
    there = pc.is_valid(table["wins"]).to_pylist()
    return [line if is_there else None for line, is_there in zip(rows_of(lines, spans(table, "wins")), there, strict=True)]


def _prompts(table: pa.Table) -> Iterator[tuple[Message, ...]]:
    said = flat(table, "prompt")
    made: list[Message] = [{"role": r, "content": c} for r, c in zip(strings(said, "role"), strings(said, "content"), strict=True)]
    calls = pc.struct_field(said, "tool_calls")
    for at in np.flatnonzero(calls.is_valid().to_numpy(zero_copy_only=False)).tolist():
        made[at]["tool_calls"] = calls[at].as_py()
    return rows_of(made, spans(table, "prompt"))
