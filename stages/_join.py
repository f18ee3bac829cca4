"""Several tables about the same prompts as one: the responses of all of them side by side, prompt by prompt, joined by id.

Responses keep the order of the tables, and their `source` says who made each. Token ids are those of one tokenizer:
responses of another one keep their text alone. What one judge said of each table is kept as scores; a win table
over the joined responses nobody made, so there is none.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import artifact, ragged, rows
from pipeline.artifact import Artifact
from pipeline.errors import Refusal
from pipeline.ragged import pc
from pipeline.tools import Tools
from stages import _columns


def joined(slot: str, table: str, tools: Tools, prompts: str | None = None) -> Artifact:
    """The tables of `slot` as one, below the step's work folder; a single table is itself.

    `prompts` is the slot of a prompts table, whose rows alone are taken, in its order; without it the first table's
    are. Raises Refusal if a table lacks one of them, or has others where there is no `prompts` to choose.
    """
    tables = tuple(dict.fromkeys(each.path for each in tools.inputs[slot]))
    if not tables:
        raise Refusal(f"{tools.address}: `{slot}` names no table here (`@all` is empty in the first round); name one that is there")
    first = next(each for each in tools.inputs[slot] if each.path == tables[0])
    chosen = tools.inputs[prompts][0].path if prompts and tools.inputs.get(prompts) else None
    if len(tables) == 1 and chosen is None:
        return first
    return replace(first, path=_written(table, _rows(tables, chosen, table, tools), tools))


def sides(slots: Sequence[str], tools: Tools) -> Artifact:
    """The candidates of several slots as one table, all over the same prompts; a response's `source` is the slot that it stood in."""
    tables = [tools.input(slot) for slot in slots]
    made = _rows([each.path for each in tables], None, "candidates", tools, slots)
    return replace(tables[0], path=_written("candidates", made, tools))


def _written(table: str, made: Iterator[pa.Table], tools: Tools) -> Path:
    """The folder of the joined rows, which a crash leaves whole or not there."""
    folder, part = tools.work / "joined", tools.work / "joined.part"
    if not folder.exists():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        rows.write(part, table, made)
        for file in rows.files(part):
            artifact.sync(file)
        part.rename(folder)
    return folder


def _rows(tables: Sequence[Path], chosen: Path | None, table: str, tools: Tools, marks: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The joined rows, a row group at a time; of every table only that many rows are in memory, and its ids."""
    wanted = _ids(chosen or tables[0])
    places = [_places(path, wanted, chosen is not None, tools) for path in tables]
    for start in range(0, len(wanted), rows.GROUP_ROWS):
        parts = [_take(path, place[start : start + rows.GROUP_ROWS]) for path, place in zip(tables, places, strict=True)]
        parts = [_marked(part, mark) for part, mark in zip(parts, marks, strict=True)] if marks else parts
        yield parts[0].select(rows.TABLES[table].names) if len(parts) == 1 else _side_by_side(parts, table)


def _ids(path: Path) -> list[str]:
    return [identity for table in rows.stream(path, ["id"]) for identity in table["id"].to_pylist()]


def _places(path: Path, wanted: list[str], chosen: bool, tools: Tools) -> list[int]:
    """Where the wanted rows stand in a table."""
    place = {identity: at for at, identity in enumerate(_ids(path))}
    missing = [identity for identity in wanted if identity not in place]
    others = 0 if chosen else len(place) - (len(wanted) - len(missing))
    if missing or others:
        example = f", such as {missing[0]!r}" if missing else ""
        raise Refusal(
            f"{tools.address}: {path.parent.name}/{path.name} lacks {len(missing)} of the {len(wanted)} prompts asked for{example}, "
            f"and has {others} others; make all tables from the same prompts"
            + (", or name the prompts that all of them have (`prompts: ...`)" if "prompts" in tools.inputs else "")
        )
    return [place[identity] for identity in wanted]


def _take(path: Path, at: list[int]) -> pa.Table:
    """The rows at these places, in their order. Reads the row groups between the first and the last of them."""
    low, high = min(at), max(at) + 1
    part: list[pa.Table] = []
    positions: list[int] = []
    inside = sorted(set(at))
    start = low
    for table in rows.stream(path, start=low, stop=high):
        here = [each - start for each in inside if start <= each < start + table.num_rows]
        if here:
            part.append(table.take(pa.array(here, pa.int64())))
        start += table.num_rows
    rank = {each: i for i, each in enumerate(inside)}
    positions = [rank[each] for each in at]
    return pa.concat_tables(part).take(pa.array(positions, pa.int64())).combine_chunks()


def _side_by_side(parts: list[pa.Table], table: str) -> pa.Table:
    made = parts[0]
    tokenizers = [part["tokenizer"].to_pylist() for part in parts]
    first = [next((each for each in here if each is not None), None) for here in zip(*tokenizers, strict=True)]
    parts = [_of_tokenizer(part, mine, first) for part, mine in zip(parts, tokenizers, strict=True)]
    spans = [_columns.spans(part, "responses") for part in parts]
    order, offsets = _order(spans)
    columns: dict[str, Any] = {"responses": _lists([_columns.flat(part, "responses") for part in parts], order, offsets)}
    columns["tokenizer"] = pa.array(first, pa.string())
    owners = [next((i for i, names in enumerate(tokenizers) if names[row] is not None), 0) for row in range(made.num_rows)]
    ids = [part["prompt_token_ids"].to_pylist() for part in parts]
    columns["prompt_token_ids"] = pa.array([ids[owner][row] for row, owner in enumerate(owners)], pa.list_(pa.int32()))
    columns["meta"] = pa.array([_merged(each) for each in zip(*(part["meta"].to_pylist() for part in parts), strict=True)], pa.string())
    if table == "judged":
        columns["scores"] = _lists([_columns.flat(part, "scores") for part in parts], order, offsets)
        columns["wins"] = pa.nulls(made.num_rows, rows.TABLES["judged"].field("wins").type)
        details = zip(*(part["detail"].to_pylist() for part in parts), strict=True)
        columns["detail"] = pa.array([_details(each) for each in details], pa.string())
    return pa.table({name: columns.get(name, made[name]) for name in rows.TABLES[table].names})


def _marked(part: pa.Table, mark: str) -> pa.Table:
    items = _columns.flat(part, "responses")
    return _with_responses(part, _columns.changed(items, source=pa.repeat(pa.scalar(mark), len(items))))


def _with_responses(part: pa.Table, items: Any) -> pa.Table:
    """The rows with other responses in place of theirs, as many for each."""
    made = ragged.lists(items, (stop - start for start, stop in _columns.spans(part, "responses")))
    return part.set_column(part.schema.get_field_index("responses"), "responses", made)


def _of_tokenizer(part: pa.Table, mine: list[str | None], first: list[str | None]) -> pa.Table:
    """The rows with their token ids nulled where they are of another tokenizer than the row's."""
    if all(a is None or a == b for a, b in zip(mine, first, strict=True)):
        return part
    items = _columns.flat(part, "responses")
    spans = _columns.spans(part, "responses")
    keep = [a is None or a == b for (start, stop), a, b in zip(spans, mine, first, strict=True) for _ in range(start, stop)]
    ids = pc.struct_field(items, "token_ids")
    made = _columns.changed(items, token_ids=pc.if_else(pa.array(keep, pa.bool_()), ids, pa.scalar(None, ids.type)))
    return _with_responses(part, made)


def _order(spans: list[_columns.Spans]) -> tuple[pa.Array, pa.Array]:
    """How to take rows of joined lists out of the concatenated items of several tables, and where each row begins."""
    bases = list(accumulate((each[-1][1] if each else 0 for each in spans), initial=0))
    order: list[int] = []
    offsets = [0]
    for row in zip(*spans, strict=True):
        for base, (start, stop) in zip(bases, row, strict=False):
            order += range(base + start, base + stop)
        offsets.append(len(order))
    return pa.array(order, pa.int64()), pa.array(offsets, pa.int32())


def _lists(items: list[Any], order: pa.Array, offsets: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(offsets, pa.concat_arrays(items).take(order))


def _details(each: Sequence[str | None]) -> str | None:
    """What the judge said of each table's responses, as a list."""
    return json.dumps([text and json.loads(text) for text in each], ensure_ascii=False) if any(each) else None


def _merged(metas: Sequence[str | None]) -> str | None:
    """What all tables know of a prompt; the first one that knows a thing has the word."""
    if len(set(metas)) == 1:
        return metas[0]
    known: dict[str, Any] = {}
    for each in metas:
        known = {**(json.loads(each) if each else {}), **known}
    return json.dumps(known, sort_keys=True, ensure_ascii=False)
