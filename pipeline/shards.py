"""The parts of an unfinished table: split once, durable one by one, joined when all are there.

A shard is a Parquet file whose name carries its rows and the digest of its bytes, so that a truncated or
damaged one is rebuilt and never read. How rows were split changes no byte of what is joined.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import artifact, rows
from pipeline.artifact import Facts


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of the source."""

    start: int
    stop: int

    @property
    def stem(self) -> str:
        return f"rows-{self.start:010d}-{self.stop:010d}"


@dataclass(frozen=True)
class Task:
    """What a worker does to each shard."""

    work: Callable[[pa.Table, Any], tuple[pa.Table, Facts]]
    source: Path
    schema: pa.Schema
    """Of the table that is made."""
    folder: Path


def split(folder: Path, total: int, rows_per_shard: int) -> list[Shard]:
    """The shards of `total` rows. A step that was begun with another size goes on with the size it began with."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "split.json"
    if not begun.exists():
        artifact.write_file(begun, json.dumps({"rows": total, "rows_per_shard": rows_per_shard}).encode())
    size = json.loads(begun.read_text())["rows_per_shard"]
    return [Shard(at, min(at + size, total)) for at in range(0, total, size)]


def build(task: Task, shard: Shard, tools: Any) -> None:
    """Do the work of one shard and put it on disk."""
    made, facts = task.work(rows.read(task.source, start=shard.start, stop=shard.stop), replace(tools, shard=work_folder(task, shard)))
    schema = task.schema.with_metadata({"facts": json.dumps(facts)})
    made = made.select(schema.names).cast(schema)
    part = task.folder / f"{shard.stem}.part"
    # zstd level 1: these bytes are read once and thrown away.
    pq.write_table(made, part, compression="zstd", compression_level=1, write_page_checksum=True)
    artifact.sync(part)
    for old in task.folder.glob(f"{shard.stem}.*.parquet"):
        old.unlink()  # a damaged attempt at this very shard; its digest did not match its name
    os.rename(part, task.folder / f"{shard.stem}.{artifact.digest_of(part)[:16]}.parquet")
    artifact.sync(task.folder)
    shutil.rmtree(work_folder(task, shard), ignore_errors=True)


def progress(folder: Path) -> tuple[int, int] | None:
    """Finished shards below a draft's `shards` folder, and how many its maps have that were begun; None before the first."""
    begun = [json.loads(path.read_text()) for path in folder.glob("*/split.json")]
    finished = sum(1 for _ in folder.glob("*/rows-*.parquet"))
    return (finished, sum(-(-each["rows"] // each["rows_per_shard"]) for each in begun)) if begun else None


def work_folder(task: Task, shard: Shard) -> Path:
    """Where the work of a shard may keep what must survive a crash; swept when the shard is sealed."""
    return task.folder / f"{shard.stem}.work"


def valid(folder: Path, shard: Shard) -> Path | None:
    """The file of a finished shard, or None if it is missing or its bytes are not those that were written."""
    for path in folder.glob(f"{shard.stem}.*.parquet"):
        if artifact.digest_of(path)[:16] == path.name.split(".")[1]:
            return path
    return None


def join(task: Task, plan: list[Shard], out: Path) -> list[Facts]:
    """Write the rows of all shards below `out` in order, and return the facts of each shard."""
    facts: list[Facts] = []
    with rows.Writer(out, task.schema) as writer:
        for shard in plan:
            path = valid(task.folder, shard)
            if path is None:
                raise artifact.CorruptArtifact(f"{task.folder / shard.stem}: is missing or damaged; run again to rebuild it")
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                facts.append(json.loads((file.schema_arrow.metadata or {}).get(b"facts", b"{}")))
                for group in range(file.num_row_groups):
                    writer.append(file.read_row_group(group))
    return facts
