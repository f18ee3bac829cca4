"""Rows of rematch's own tables, from an artifact or from what `rematch export` wrote: every column is kept as it is.

Empty texts, groups of one and pairs of equal responses are kept too: a run makes them, and decides about them. Held to the table
are names (also within responses), numbers, the lengths of scores, and the shape of a win table.
"""

from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa

from models.messages import chat_of, shown
from pipeline import rows
from pipeline.errors import Refusal
from pipeline.plugin import unknown
from stages import _adopt_rows
from stages.take import values
from stages.take.counts import Counts
from stages.take.values import Row

_NEEDS = {"pairs": ("prompt", "chosen", "rejected"), "judged": ("prompt", "responses", "scores"), "candidates": ("prompt", "responses")}
_MARKS = {"prompt_token_ids", "chosen_token_ids", "rejected_token_ids", "tokenizer", "chosen_win_rate", "rejected_win_rate", "source_round"}


def holds(row: Row) -> bool:
    """Whether the columns are those of a table of ours, and of no dataset."""
    if "chosen" in row and "rejected" in row:
        return bool(_MARKS & row.keys())
    responses = row.get("responses")
    first: Any = responses[0] if isinstance(responses, list) and responses else None  # pyright: ignore[reportUnknownVariableType]
    return isinstance(first, dict) and "text" in first


def made(found: Iterator[tuple[str, Row]], table: str, renamed: frozenset[str], counts: Counts) -> Iterator[tuple[str, Row]]:
    """Rows of the table, each with where it stood."""
    for where, row in found:
        counts.read += 1
        row = {name: value for name, value in row.items() if name not in renamed}
        _columns(row, table, where)
        try:
            _check(row, table, where)
            given = values.identity(row, where)
        except Refusal as problem:
            counts.malformed(problem)
            continue
        prompt_id = _adopt_rows.prompt_id(tuple(row["prompt"]))
        if table == "pairs":
            row["prompt_id"] = row.get("prompt_id") or prompt_id
            row["id"] = given or values.pair_id(prompt_id, *(str(row[side][-1]["content"]) for side in ("chosen", "rejected")))
        else:
            row["id"] = given or prompt_id
        if counts.once(row["id"], where) if given or table != "pairs" else counts.new(row["id"]):
            if table == "judged":
                counts.scored(row["scores"])
            yield where, row


def _columns(row: Row, table: str, where: str) -> None:
    """Raises Refusal if the row is of another table, lacks a column, or has one that the table has not."""
    really = "pairs" if "chosen" in row and "rejected" in row else "judged" if "scores" in row else "candidates"
    if ("responses" in row or really == "pairs") and really != table:
        after = ", and add a node {stage: pair, judged: ..., rule: {kind: best_vs_worst}}" if table == "pairs" else ""
        raise Refusal(f"{where}: holds {really} and not {table}; write `table: {really}`{after}")
    names = rows.TABLES[table].names
    for name in row:
        if name not in names:
            raise Refusal(f"{where}: {unknown('column', name, names)}; name the columns as the table '{table}' has them")
    for name in _NEEDS[table]:
        if name not in row:
            raise Refusal(f"{where}: has no `{name}`, which a row of '{table}' needs; mend the row, or name its column with `columns`")


def _check(row: Row, table: str, where: str) -> None:
    for field in rows.TABLES[table]:
        if field.name not in ("id", "meta", "detail"):
            _typed(row.get(field.name), field.type, where, f"`{field.name}`")
    for name in ("prompt", "chosen", "rejected") if table == "pairs" else ("prompt",):
        last = chat_of(row[name], where, f"`{name}`")[-1]
        if (last["role"] == "assistant") != (name != "prompt"):
            raise Refusal(f"{where}: `{name}` ends with a message of the {last['role']}; mend the row")
    if table != "pairs" and not row["responses"]:
        raise Refusal(f"{where}: has no responses; mend the row")
    responses: list[Row] = row.get("responses") or []
    ids = [row.get(f"{name}_token_ids") for name in ("prompt", "chosen", "rejected")]
    ids += [each.get("token_ids") for each in responses]
    if row.get("tokenizer") is None and any(each is not None for each in ids):
        raise Refusal(f"{where}: has token ids and no `tokenizer`, so nobody knows whose they are; name it, or leave the ids out")
    for name in ("chosen", "rejected"):
        _mask(row.get(f"{name}_mask"), row.get(f"{name}_token_ids"), where, f"`{name}_mask`")
    for at, each in enumerate(responses):
        _mask(each.get("mask"), each.get("token_ids"), where, f"`responses[{at}].mask`")
    if table == "judged":
        _verdict(row, len(responses), where)


def _mask(mask: list[bool] | None, ids: list[int] | None, where: str, what: str) -> None:
    """Raises Refusal if a mask is not one flag for each token."""
    if mask is not None and (ids is None or len(mask) != len(ids)):
        tokens = "no token ids" if ids is None else f"{len(ids)} tokens"
        raise Refusal(f"{where}: {what} has {len(mask)} flags for {tokens}; give one flag for each token, or leave the mask out")


def _verdict(row: Row, count: int, where: str) -> None:
    scores, wins = row["scores"], row.get("wins")
    if scores is None or len(scores) != count:
        what = "no" if scores is None else len(scores)
        raise Refusal(f"{where}: has {what} scores for {count} responses; give one to each, null where nobody knows")
    if wins is not None and (len(wins) != count or any(line is None or len(line) != count for line in wins)):
        lengths = ", ".join("null" if line is None else str(len(line)) for line in wins)
        raise Refusal(f"{where}: `wins` has lines of {lengths or 'nothing'} and is not {count} x {count}; mend the table, or write null")
    if wins is not None and any(win is None or not 0 <= win <= 1 for line in wins for win in line):
        raise Refusal(f"{where}: `wins` holds what is no probability; mend the table, or write null")


def _typed(value: Any, kind: pa.DataType, where: str, what: str) -> None:
    """Raises Refusal for what Arrow would take in silence or refuse without a place: strange names, no list, no number."""
    if value is None:
        return
    if pa.types.is_list(kind):
        listed = values.items(value, where, what)
        for at, each in enumerate(() if pa.types.is_integer(kind.value_type) else listed):  # of token ids, Arrow sees to it
            _typed(each, kind.value_type, where, f"{what}[{at}]")
    elif pa.types.is_struct(kind):
        names = [kind.field(at).name for at in range(kind.num_fields)]
        if not isinstance(value, dict):
            raise Refusal(f"{where}: {what} is an object with {', '.join(names)}, not {shown(value)}; mend the row")
        body = cast(Row, value)
        for name in body:
            if name not in names:
                raise Refusal(f"{where}: {what}: {unknown('field', name, names)}; mend the row")
        for name in names:
            _typed(body.get(name), kind.field(name).type, where, f"{what}.{name}")
    elif pa.types.is_boolean(kind):
        if not isinstance(value, bool):
            raise Refusal(f"{where}: {what} is true or false, not {shown(value)}; mend the row")
    elif pa.types.is_floating(kind):
        values.number(value, where, what)
    elif pa.types.is_string(kind) and not isinstance(value, str):
        raise Refusal(f"{where}: {what} is a text, not {shown(value)}; mend the row")
