"""Cuts prompts into disjoint parts, a fresh one each round; every prompt is in exactly one part.

Prompts are dealt to the parts in the order of a hash of their ids, so that parts differ in size by one at
most, do not depend on the order of the source, and are the same in whatever round they are asked for. After
the last part comes the first again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.draws import draw
from pipeline.errors import Refusal
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 2
MAKES = "prompts"
SEEDED = False


class Config(Settings):
    rows: Annotated[str, Reads("prompts")]
    """What to cut."""
    parts: int = Field(1, ge=1)
    """How many parts there are."""
    part: int | None = Field(None, ge=1)
    """Which part, from 1; if not given, the round's: 1, 2, ... and 1 again after the last."""
    take: int | None = Field(None, ge=1)
    """At most this many prompts of the part."""
    shuffle: int = 0
    """Another number deals the prompts to the parts in another way."""


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """Rows of one part."""
    total = inputs.get("rows")
    part = None if total is None else -(-total // config.parts)
    return {"rows": part if config.take is None or part is None else min(part, config.take), "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    source = tools.input("rows").path
    part = _part(config, tools)
    ids = [identity for table in rows.stream(source, ["id"]) for identity in table["id"].to_pylist()]
    dealt = sorted(range(len(ids)), key=lambda at: (draw(config.shuffle, ids[at]), at))
    mine = dealt[part - 1 :: config.parts][: config.take]
    if not mine:
        raise Refusal(f"{tools.address}: part {part} of {config.parts} is empty, there are {len(ids)} prompts; ask for fewer parts")
    written = rows.write(tools.out, "prompts", _taken(source, sorted(mine)))
    return {"rows": written, "total": len(ids), "part": part, "parts": config.parts}


def _part(config: Config, tools: Tools) -> int:
    if config.part is not None:
        if config.part > config.parts:
            raise Refusal(f"{tools.address}: part {config.part} does not exist, there are {config.parts} parts; name one of these")
        return config.part
    if tools.round is None:
        if config.parts > 1:
            raise Refusal(f"{tools.address}: outside a round, `part` must say which of the {config.parts} parts is meant; set it")
        return 1
    return (tools.round - 1) % config.parts + 1


def _taken(source: Path, wanted: list[int]) -> Iterator[pa.Table]:
    """The rows at `wanted` (ascending), a row group at a time."""
    start = at = 0
    for table in rows.stream(source):
        stop = start + table.num_rows
        here: list[int] = []
        while at < len(wanted) and wanted[at] < stop:
            here.append(wanted[at] - start)
            at += 1
        if here:
            yield table.take(pa.array(here, pa.int64()))
        start = stop
