"""Joins several pairs tables into one, such as this round's with a share of earlier ones (replay, arXiv:2404.03715).

Of a table of n pairs, the floor(share * n) with the lowest hashes of their ids and the step's seed are kept: exactly
as many as asked for, never more, whatever the order of the rows. An id stands once in the result: a pair that comes
again is left out and counted. DNO's replay is `fractions: [0.3, 1]` with `decay: 0.5`.
"""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, field_validator

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.draws import draw
from pipeline.errors import Refusal
from pipeline.plugin import Reads, Settings
from pipeline.ragged import pc
from pipeline.tools import Tools

VERSION = 3
MAKES = "pairs"


class Config(Settings):
    rows: Annotated[tuple[str, ...], Reads("pairs")]
    """The tables, in the order in which they are joined; `x@all` stands for all earlier rounds, oldest first."""
    fractions: tuple[float, ...] = (1.0,)
    """Share of each table that is kept. The last one is the last table's, and so on backwards; tables before the first of
    these take the first (see `decay`), so that `[0.15, 0.3, 1]` keeps all of this round, 30 % of the last and 15 % of each before."""
    decay: float = Field(1.0, ge=0, le=1)
    """Each table before the first of `fractions` takes this much of the share of the table after it: with `fractions: [0.3, 1]`
    and 0.5, the earlier tables give 30 %, 15 %, 7.5 % and so on."""
    weights: tuple[float, ...] = (1.0,)
    """By what the weights of each table's pairs are multiplied; read like `fractions`."""

    @field_validator("fractions", "weights")
    @classmethod
    def _check(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) < 0:
            raise ValueError("needs one or more numbers, none below 0")
        return value

    @field_validator("fractions")
    @classmethod
    def _at_most_all(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if max(value) > 1:
            raise ValueError("a fraction is at most 1")
        return value


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """An upper bound: all rows of all tables."""
    return {"rows": inputs.get("rows"), "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    tables = tools.inputs["rows"]
    taken = [0] * len(tables)
    counts = {"read": 0, "not_drawn": 0, "duplicates": 0}
    seen: set[str] = set()

    def joined() -> Iterator[pa.Table]:
        for at, table in enumerate(tables):
            behind = len(tables) - at
            fraction = _of(config.fractions, behind) * config.decay ** max(behind - len(config.fractions), 0)
            weight = _of(config.weights, behind)
            drawn = _drawn(table.path, fraction, tools.seed)
            for part in rows.stream(table.path):
                kept = _kept(part, drawn, seen, counts)
                taken[at] += kept.num_rows
                yield _weighted(kept, weight)

    written = rows.write(tools.out, "pairs", joined())
    if not written:
        raise Refusal(f"{tools.address}: no pair is left of {counts['read']} in {len(tables)} tables; raise `fractions`")
    return {"rows": written, **counts, "from": taken}


def _of(values: tuple[float, ...], behind: int) -> float:
    """The value of the table that stands `behind`-th from the end."""
    return values[max(len(values) - behind, 0)]


def _drawn(path: Path, fraction: float, seed: int) -> set[str] | None:
    """The ids with the lowest hashes, floor(fraction * n) of the table's n; None for all of them."""
    if fraction >= 1:
        return None
    ids = [identity for part in rows.stream(path, ["id"]) for identity in part["id"].to_pylist()]
    # 0.3 * 10 is a hair above 3 in binary, and 0.29 * 100 a hair below 29.
    share = int(fraction * len(ids) + 1e-9)
    return set(heapq.nsmallest(share, ids, key=lambda identity: draw(seed, identity)))


def _kept(part: pa.Table, drawn: set[str] | None, seen: set[str], counts: dict[str, int]) -> pa.Table:
    here: list[int] = []
    for at, identity in enumerate(part["id"].to_pylist()):
        counts["read"] += 1
        if drawn is not None and identity not in drawn:
            counts["not_drawn"] += 1
        elif identity in seen:
            counts["duplicates"] += 1
        else:
            seen.add(identity)
            here.append(at)
    return part.take(pa.array(here, pa.int64()))


def _weighted(part: pa.Table, weight: float) -> pa.Table:
    if weight == 1.0:
        return part
    column: Any = pc.multiply(pc.fill_null(part["weight"], 1.0), weight)  # a null weighs 1, in training too
    return part.set_column(part.schema.get_field_index("weight"), "weight", column)
