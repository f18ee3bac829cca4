"""Trains over several ranks with DeepSpeed: ZeRO 0 to 3, offload, bfloat16 or float32 (arXiv:1910.02054).

On GPUs each rank has one; without GPUs the ranks are CPU processes that talk over gloo. Micro-batches, stages
and offload change memory and speed, and nothing of the result but float noise.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.plugin import Settings
from pipeline.tools import Placement
from trainers import Job

if TYPE_CHECKING:
    from pipeline.tools import Tools

VERSION = 1


class Config(Settings):
    gpus: int = Field(0, ge=0)
    """GPUs, one rank each; 0 trains on CPU."""
    ranks: int = Field(1, ge=1)
    """CPU ranks, where there are no GPUs."""
    cpus_per_rank: float = Field(1.0, gt=0)
    """CPU cores of each rank; also its threads."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is divided among ranks: nothing, optimizer state, gradients too, weights too."""
    bf16: bool = False
    """Weights and activations in bfloat16 with a float32 master copy; else float32."""
    offload_optimizer: bool = False
    """Keep optimizer state in the host's memory (stage 1 and up)."""
    offload_param: bool = False
    """Keep weights in the host's memory (stage 3)."""
    tokens_per_device: int = Field(8192, ge=1)
    """Padded tokens of one micro-batch of one rank: as many as fit into memory."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Save after every so many optimizer steps."""
    checkpoint_every_s: float = Field(600.0, gt=0)
    """Save when the last checkpoint is this old."""

    @property
    def world(self) -> int:
        """Ranks."""
        return self.gpus or self.ranks


def placement(config: Config) -> Placement:
    """A process a rank."""
    return Placement(config.world, 1.0 if config.gpus else 0.0, config.cpus_per_rank)


def train(config: Config, job: Job, tools: "Tools | Any") -> Facts:
    """Train, or go on training, and leave the model at `job.out`."""
    from trainers import _checkpoint, _ranks

    # Refusals that need no rank come before any is started.
    if job.optimizer is not None or job.keep_optimizer:
        raise Refusal(
            "trainer: deepspeed divides its optimizer's state among ranks and neither leaves it nor takes it up; "
            "use the torch trainer for this node (`overrides` in the profile), or leave `optimizer` and `keep_optimizer` out"
        )
    begun = _checkpoint.newest(job.work, _ranks.maker(config))
    with _progress(job.work, tools):
        facts = tools.gang(_ranks.train, config, job, begun, placement=placement(config))
    return facts[0]


@contextmanager
def _progress(work: Path, tools: "Tools | Any") -> Iterator[None]:
    """Tell of the progress that the first rank writes down, for as long as the block lasts."""
    from trainers import _ranks

    path, ended = work / _ranks.PROGRESS, threading.Event()
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
