"""Gives every prompt a response to another one: the mismatched rows from which KTO estimates its KL (arXiv:2402.01306).

All prompts are put in an order that depends on the step's seed and their ids alone, and each gets a response of the next
one, the last of the first: none gets its own, and all are used once. Read by the `extra` of a training with such an
objective. KTO's code rotates within a batch instead, so there what comes out depends on the batches.
"""

from collections.abc import Iterator
from typing import Annotated

import pyarrow as pa

from pipeline import rows as tables
from pipeline.artifact import Artifact, Facts
from pipeline.draws import draw
from pipeline.errors import Refusal
from pipeline.plugin import Reads, Settings
from pipeline.ragged import pc
from pipeline.tools import Tools
from stages import _columns

VERSION = 1
MAKES = "candidates"


class Config(Settings):
    rows: Annotated[str, Reads("pairs", "candidates", "judged")]
    """Whose prompts and responses; of a pair, and of several candidates, one response is drawn."""


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """At most one row for each row."""
    return {"rows": inputs["rows"], "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    """Facts: rows, one for each prompt."""
    prompts = _prompts(tools.input("rows"))
    ids = prompts["id"].to_pylist()
    if len(ids) < 2:
        raise Refusal(f"{tools.address}: {len(ids)} prompts have a response, and a mismatch takes two; give it more rows")
    order = sorted(range(len(ids)), key=lambda i: (draw(tools.seed, ids[i]), ids[i]))
    donors = [0] * len(ids)
    for at, mine in enumerate(order):
        donors[mine] = order[(at + 1) % len(order)]
    return {"rows": tables.write(tools.out, "candidates", _mismatched(prompts, donors, tools))}


def _mismatched(prompts: pa.Table, donors: list[int], tools: Tools) -> Iterator[pa.Table]:
    """The rows in the order of the prompts, a row group at a time."""
    for start in range(0, len(donors), tables.GROUP_ROWS):
        mine = prompts.slice(start, tables.GROUP_ROWS)
        theirs = prompts.take(pa.array(donors[start : start + tables.GROUP_ROWS], pa.int64()))
        lists, where = _columns.flat(theirs, "responses"), _columns.spans(theirs, "responses")
        drawn = [
            begin + draw(tools.seed, "response", id) % (end - begin)
            for (begin, end), id in zip(where, theirs["id"].to_pylist(), strict=True)
        ]
        taken = lists.take(pa.array(drawn, pa.int64()))
        # Ids of another tokenizer would spell something else.
        alike = pc.fill_null(pc.equal(mine["tokenizer"], theirs["tokenizer"]), False).combine_chunks()
        ids = pc.struct_field(taken, "token_ids")
        items = _columns.changed(
            taken,
            token_ids=pc.if_else(alike, ids, pa.scalar(None, ids.type)),
            source=pa.array([tools.address] * len(mine), pa.string()),
            logprob=pa.nulls(len(mine), pa.float64()),  # what it was sampled with, after its own prompt, says nothing here
        )
        responses = pa.ListArray.from_arrays(pa.array(range(len(mine) + 1), pa.int32()), items)
        yield mine.set_column(mine.schema.get_field_index("responses"), "responses", responses)


def _prompts(source: Artifact) -> pa.Table:
    """Each prompt that has a response, once, as a row of candidates."""
    table = tables.read(source.path)
    table = _of_pairs(table) if source.manifest.makes == "pairs" else table.select(tables.TABLES["candidates"].names)
    table = table.filter(pc.greater(pc.fill_null(pc.list_value_length(table["responses"]), 0), 0)).combine_chunks()
    first = {id: at for at, id in reversed(list(enumerate(table["id"].to_pylist())))}
    return table.take(pa.array(sorted(first.values()), pa.int64())).combine_chunks()


def _of_pairs(table: pa.Table) -> pa.Table:
    """Pairs as candidates with two responses, under the id of their prompt."""
    count = table.num_rows
    turns = pa.array([at for i in range(count) for at in (i, count + i)], pa.int64())
    items = pa.concat_arrays([_columns.of_pairs(table, side) for side in ("chosen", "rejected")]).take(turns)
    columns = {
        "id": table["prompt_id"],
        **{name: table[name] for name in ("prompt", "prompt_token_ids", "tokenizer")},
        "meta": pa.nulls(count, pa.string()),
        "responses": pa.ListArray.from_arrays(pa.array(range(0, 2 * count + 1, 2), pa.int32()), items),
    }
    return pa.table({name: columns[name] for name in tables.TABLES["candidates"].names})
