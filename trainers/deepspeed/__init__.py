"""Trains over several ranks with DeepSpeed: ZeRO 0 to 3, offload, bfloat16 or float32 (arXiv:1910.02054).

On GPUs each rank has one; without GPUs the ranks are CPU processes that talk over gloo. Micro-batches, stages
and offload change memory and speed, and nothing of the result but float noise.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.placement import Placement
from trainers.deepspeed.config import Config
from training.job import Job

if TYPE_CHECKING:
    from pipeline.tools import Tools

VERSION = 1


def placement(config: Config) -> Placement:
    """A process a rank."""
    return Placement(config.world, 1.0 if config.gpus else 0.0, config.cpus_per_rank)


def train(config: Config, job: Job, tools: "Tools | Any") -> Facts:
    """Train, or go on training, and leave the model at `job.out`."""
    from trainers.deepspeed import worker
    from training import checkpoint

    # Refusals that need no rank come before any is started.
    if job.optimizer is not None or job.keep_optimizer:
        raise Refusal(
            "trainer: deepspeed divides its optimizer's state among ranks and neither leaves it nor takes it up; "
            "use the torch trainer for this node (`overrides` in the profile), or leave `optimizer` and `keep_optimizer` out"
        )
    begun = checkpoint.newest(job.work, worker.maker(config))
    with _progress(job.work, tools):
        facts = tools.gang(worker.train, config, job, begun, placement=placement(config))
    return facts[0]


@contextmanager
def _progress(work: Path, tools: "Tools | Any") -> Iterator[None]:
    """Tell of the progress that the first rank writes down, for as long as the block lasts."""
    from trainers.deepspeed import worker

    path, ended = work / worker.PROGRESS, threading.Event()
    path.unlink(missing_ok=True)

    def watch() -> None:
        last = ""
        while not ended.wait(0.5):
            said = path.read_text() if path.exists() else ""
            if said and said != last:
                done, total = said.split()
                tools.report(tools.address, int(done), int(total))
                last = said

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
