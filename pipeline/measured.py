"""Every number that the steps of a run reported, as one long list: what notebooks plot and reporters are told.

Built from the facts of manifests alone, so that it can be made of any run at any time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import artifact
from pipeline.errors import Refusal
from pipeline.plan import Step

SCHEMA = pa.schema([("round", pa.int32()), ("node", pa.string()), ("metric", pa.string()), ("value", pa.float64())])


class Row(NamedTuple):
    round: int
    """0 is the start."""
    node: str
    metric: str
    """The dotted name of the fact; `alarms` counts a report's alarms."""
    value: float


def numbers(facts: dict[str, Any], at: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number in nested facts, by its dotted name, in the order of the facts."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from numbers(cast(dict[str, Any], value), f"{at}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{at}{name}", value


def rows(steps: list[Step], run: Path) -> list[Row]:
    """The rows of the steps that are there, in their order. Raises Refusal for one that is damaged."""
    found: list[Row] = []
    for step in steps:
        made = artifact.read(step.folder(run))
        if made is not None:
            found += of(step, made.manifest.facts)
    return found


def of(step: Step, facts: artifact.Facts) -> list[Row]:
    """The rows of one step."""
    told = [(name, float(value)) for name, value in numbers(facts)]
    if isinstance(facts.get("alarms"), list):
        told.append(("alarms", float(len(facts["alarms"]))))
    return [Row(step.round or 0, step.node, name, value) for name, value in told]


def write(found: list[Row], to: Path) -> int:
    """Write rows to a new Parquet file, and return how many they are. Never overwrites."""
    if to.exists():
        raise Refusal(f"{to}: exists already, and export overwrites nothing; name another file")
    if not to.parent.is_dir():
        raise Refusal(f"{to}: the folder {to.parent} is not there; make it first")
    part = to.with_name(f".{to.name}.part")
    columns = list(zip(*found, strict=True)) or [()] * len(SCHEMA)
    table = pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)
    pq.write_table(table, part, compression="zstd", write_page_checksum=True)
    artifact.sync(part)
    part.rename(to)
    return len(found)
