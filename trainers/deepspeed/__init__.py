"""Trains over several ranks with DeepSpeed: ZeRO 0 to 3, offload, bfloat16 or float32 (arXiv:1910.02054).

On GPUs each rank has one; without GPUs the ranks are CPU processes that talk over gloo. Micro-batches, stages
and offload change memory and speed, and nothing of the result but float noise.
"""

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
    from training import checkpoint, progress

    # Refusals that need no rank come before any is started.
    if job.optimizer is not None or job.keep_optimizer:
        raise Refusal(
            "trainer: deepspeed divides its optimizer's state among ranks and neither leaves it nor takes it up; "
            "use the torch trainer for this node (`overrides` in the profile), or leave `optimizer` and `keep_optimizer` out"
        )
    begun = checkpoint.newest(job.work, worker.maker(config))
    with progress.watched(job.work, progress.to(tools)):
        facts = tools.gang(worker.train, config, job, begun, placement=placement(config))
    return facts[0]
