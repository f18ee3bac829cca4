"""Trainers turn rows into checkpoints. This page is their whole contract; each file beside it is one trainer.

A trainer module is a `Trainer`, whose `Config` is the machine (ranks, precision, memory) and never the result. It has `IN_PROCESS = True`
if it trains in the process that runs the step, instead of in a gang of ranks.
It leaves a Hugging Face folder in safetensors at `job.out` (with tokenizer and `canary.json`; with `labels.parquet`
if the objective moves labels, and `optimizer/` if it is to be kept), writes checkpoints below `job.work` and goes on
from the last valid one, with the same data order.
"""

from typing import Any, Protocol, cast

from pipeline.artifact import Facts
from pipeline.placement import Placement
from pipeline.plugin import Choice, Settings
from pipeline.tools import Tools
from training.job import Job


class Trainer(Protocol):
    """What a trainer module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    def train(self, config: Any, job: Job, tools: Tools) -> Facts: ...

    def placement(self, config: Any) -> Placement: ...


def of(choice: Choice) -> Trainer:
    """The module of a choice, by its contract."""
    return cast(Trainer, choice.module)
