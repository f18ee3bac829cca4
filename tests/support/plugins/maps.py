"""Maps twice, declares a table of its own, and keeps a journal in each shard's folder. Source: ours, for tests."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Annotated

import pyarrow as pa

from pipeline.artifact import Facts
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "lengths"
TABLE = pa.schema([("id", pa.string()), ("length", pa.int64())])


class Config(Settings):
    prompts: Annotated[str, Reads("prompts")]
    """What is measured."""
    die_at: str = ""
    """Path of a file; the first shard that finds it there removes it and its process."""


def run(config: Config, tools: Tools) -> Facts:
    """Facts: both sums, and how many shards went on from a journal."""
    twice = tools.map(partial(_measured, config, 2), tools.input("prompts"), TABLE, tools.work / "twice")
    once = tools.map(partial(_measured, config, 1), tools.input("prompts"), TABLE)
    return {
        "rows": sum(part["rows"] for part in once),
        "once": sum(part["sum"] for part in once),
        "twice": sum(part["sum"] for part in twice),
        "went_on": sum(part["went_on"] for part in (*once, *twice)),
    }


def _measured(config: Config, times: int, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    journal = tools.shard_work / "journal"
    went_on = journal.exists()
    journal.write_text("begun")
    if config.die_at and Path(config.die_at).exists():
        Path(config.die_at).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    lengths = [times * len(messages[0]["content"]) for messages in table["prompt"].to_pylist()]
    return pa.table({"id": table["id"], "length": lengths}), {"rows": len(lengths), "sum": sum(lengths), "went_on": went_on}
