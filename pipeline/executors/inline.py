"""Runs steps in this process, one after the other: quick start, debuggers, tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import shards
from pipeline.build import Context, build
from pipeline.executors import _gang
from pipeline.placement import Placement
from pipeline.plan import Step
from pipeline.plugin import Settings
from pipeline.tools import Tools

VERSION = 1


class Config(Settings):
    pass


class InlinePool:
    """Shards in a loop; ranks as processes of this machine."""

    def map(self, task: shards.Task, todo: list[shards.Shard], tools: Tools, placement: Placement, done: Callable[[], None]) -> None:
        try:
            for shard in todo:
                shards.build(task, shard, tools)
                done()
        finally:
            tools.close()

    def gang(self, rank: Callable[..., Any], args: tuple[Any, ...], placement: Placement, work: Path) -> list[Any]:
        return _gang.run(rank, args, placement, work)


def execute(config: Config, steps: list[Step], context: Context) -> None:
    """Build `steps` in order."""
    pool = InlinePool()
    for step in steps:
        context.started(step.address)
        made = build(step, context, pool)
        context.finished(made, step.address)
