"""Joins several pairs tables into one, such as this round's with a share of earlier ones (replay, arXiv:2404.03715).

Which pairs of a table are kept depends on a hash of their ids and the step's seed. An id stands once in the
result: a pair that comes again is left out and counted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3
from pydantic import field_validator

from pipeline import rows
from pipeline.artifact import Artifact, Facts
from pipeline.errors import Refusal
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "pairs"


class Config(Settings):
    rows: Annotated[tuple[str, ...], Reads("pairs")]
    """The tables, in the order in which they are joined; `x@all` stands for all earlier rounds, oldest first."""
    fractions: tuple[float, ...] = (1.0,)
    """Share of each table that is kept. The last one is the last table's, and so on backwards; tables before the first of
    these take the first, so that `[0.15, 0.3, 1]` keeps all of this round, 30 % of the last and 15 % of each before."""
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


def run(config: Config, inputs: dict[str, tuple[Artifact, ...]], out: Path, tools: Tools) -> Facts:
    tables = inputs["rows"]
    taken = [0] * len(tables)
    counts = {"read": 0, "not_drawn": 0, "duplicates": 0}
    seen: set[str] = set()

    def joined() -> Iterator[pa.Table]:
        for at, table in enumerate(tables):
            behind = len(tables) - at
            fraction, weight = _of(config.fractions, behind), _of(config.weights, behind)
            for part in rows.stream(table.path):
                kept = _kept(part, fraction, tools.seed, seen, counts)
                taken[at] += kept.num_rows
                yield _weighted(kept, weight)

    written = rows.write(out, "pairs", joined())
    if not written:
        raise Refusal(f"{tools.address}: no pair is left of {counts['read']} in {len(tables)} tables; raise `fractions`")
    return {"rows": written, **counts, "from": taken}


def _of(values: tuple[float, ...], behind: int) -> float:
    """The value of the table that stands `behind`-th from the end."""
    return values[max(len(values) - behind, 0)]


def _kept(part: pa.Table, fraction: float, seed: int, seen: set[str], counts: dict[str, int]) -> pa.Table:
    here: list[int] = []
    for at, identity in enumerate(part["id"].to_pylist()):
        counts["read"] += 1
        if int.from_bytes(blake3(f"{seed}:{identity}".encode()).digest()[:8], "big") >= fraction * 2**64:
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
    column: Any = pc.multiply(part["weight"], weight)
    return part.set_column(part.schema.get_field_index("weight"), "weight", column)
