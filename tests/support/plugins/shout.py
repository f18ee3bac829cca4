"""A stage for tests: maps prompts to prompts, shard by shard, and can die on a row. Source: none, it exists for tests."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Annotated

import pyarrow as pa

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "prompts"


class Config(Settings):
    prompts: Annotated[tuple[str, ...], Reads("prompts")]
    suffix: str = "!"
    """What is added to each prompt."""
    loud: float = 1.0
    """Unused; a default that must not enter the key."""


def run(config: Config, tools: Tools) -> Facts:
    parts = tools.map(partial(_shard, config), tools.input("prompts"), "prompts")
    return {"rows": sum(part["rows"] for part in parts), "shards": len(parts)}


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    made = table.to_pylist()
    for row in made:
        # Lets a test kill the process in the middle of a step, once: the marker file is gone afterwards.
        marker = Path(os.environ.get("REMATCH_TEST_KILL", "/nonexistent")) / f"{tools.address.replace('/', '.')}.{row['id']}"
        if marker.exists():
            marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        row["prompt"][0]["content"] += config.suffix
    return rows.from_pylist("prompts", made), {"rows": len(made)}
