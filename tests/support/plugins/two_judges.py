"""Asks two judges, in fields that no other stage has. Source: ours, for tests."""

from functools import partial
from typing import Annotated

import pyarrow as pa

from pipeline.artifact import Facts
from pipeline.plugin import Choice, Picks, Reads, Settings
from pipeline.tools import Tools
from stages import _columns

VERSION = 1
MAKES = "candidates"


class Config(Settings):
    candidates: Annotated[str, Reads("candidates")]
    """What is judged."""
    strict: Annotated[Choice, Picks("judges")]
    """The first judge."""
    kind_one: Annotated[Choice, Picks("judges")]
    """The second."""


def run(config: Config, tools: Tools) -> Facts:
    """Facts: whose model each judge found."""
    [part] = tools.map(partial(_shard, config), tools.input("candidates"), "candidates")
    return part


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    groups = _columns.groups(table)
    judges = {name: getattr(config, name) for name in ("strict", "kind_one")}
    said = {name: each.module.judge(each.config, groups, tools.of(name)) for name, each in judges.items()}
    return table, {"rows": table.num_rows, **{name: verdicts[0].detail["model"] for name, verdicts in said.items()}}
