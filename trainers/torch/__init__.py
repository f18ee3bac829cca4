"""Trains in this process, on one device, with plain torch: laptops, debuggers, tests, one GPU.

With bfloat16 the model is held in bfloat16 and a float32 master copy is updated, as DeepSpeed does it, so that the
forward in training is the one that computed the reference.
"""

from typing import TYPE_CHECKING, Any

from pipeline.artifact import Facts
from pipeline.placement import Placement
from trainers.torch.config import Config
from training import progress
from training.job import Job

if TYPE_CHECKING:
    from pipeline.tools import Tools

VERSION = 1
IN_PROCESS = True
"""It trains in the process that runs the step, so that is where an executor reserves the GPU or core."""


def placement(config: Config) -> Placement:
    """One process."""
    return Placement(1, 0.0 if config.device == "cpu" else 1.0, float(config.threads or 1))


def train(config: Config, job: Job, tools: "Tools | Any") -> Facts:
    """Train, or go on training, and leave the model at `job.out`."""
    import torch

    from trainers.torch import worker

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        return worker.train(config, job, progress.to(tools))
    finally:
        torch.set_num_threads(threads)
