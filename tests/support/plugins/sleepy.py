"""A stage for tests of executors: passes prompts on, by a map or a gang, takes its time, and can fail in each known way.

Source: none, it exists for tests.
"""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.placement import NOTHING, Need, Placement
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "prompts"
Fault = Literal["none", "killed once", "raises once", "killed", "raises", "refuses"]


class Config(Settings):
    prompts: Annotated[str, Reads("prompts")]
    how: Literal["map", "gang"] = "map"
    fault: Fault = "none"
    seconds: float = 0.0
    """How long each row, or each rank, takes."""


def uses(config: Config) -> frozenset[Need]:
    return frozenset({"trainer"}) if config.how == "gang" else NOTHING


def run(config: Config, tools: Tools) -> Facts:
    source = tools.input("prompts")
    if config.how == "map":
        parts = tools.map(partial(_shard, config), source, "prompts")
        return {"rows": sum(part["rows"] for part in parts), "spans": [part["span"] for part in parts]}
    ranks = tools.gang(_rank, config, tools.work, placement=Placement(workers=2))
    count = rows.write(tools.out, "prompts", rows.stream(source.path))
    return {"rows": count, "spans": [[began, ended] for began, ended, _ in ranks], "ranks": [names for _, _, names in ranks]}


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    began = time.time()
    for index, id in enumerate(table["id"].to_pylist()):
        time.sleep(config.seconds)
        if id == "p000005":
            _fail(config.fault, tools.work, f"row {index}")
    return table, {"rows": table.num_rows, "span": [began, time.time()]}


def _rank(config: Config, work: Path) -> tuple[float, float, str]:
    began = time.time()
    time.sleep(config.seconds)
    if os.environ["RANK"] == "1":
        _fail(config.fault, work, "rank 1")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    return began, time.time(), " ".join(os.environ[name] for name in names)


def _fail(fault: Fault, work: Path, where: str) -> None:
    once = work / "failed-once"
    if fault == "none" or (fault.endswith("once") and once.exists()):
        return
    once.touch()
    if fault.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.startswith("raises"):
        raise ValueError(f"a very particular problem at {where}")
    raise Refusal(f"{where} is refused, 7 of 9; say 9")
