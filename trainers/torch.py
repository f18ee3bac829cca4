"""Trains in this process, on one device, with plain torch: laptops, debuggers, tests, one GPU.

With bfloat16 the model is held in bfloat16 and a float32 master copy is updated, as DeepSpeed does it, so that the
forward in training is the one that computed the reference.
"""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.artifact import Facts
from pipeline.plugin import Settings
from pipeline.tools import Placement
from trainers import Job

if TYPE_CHECKING:
    from pipeline.tools import Tools

VERSION = 1
IN_PROCESS = True
"""It trains in the process that runs the step, so that is where an executor reserves the GPU or core."""


class Config(Settings):
    device: str = "cpu"
    """torch device, such as `cpu` or `cuda`."""
    dtype: str = Field("float32", pattern="^(float32|bfloat16)$")
    """Weights and activations of the forward."""
    tokens_per_device: int = Field(8192, ge=1)
    """Padded tokens of one micro-batch: as many as fit into memory."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; as many as torch takes by itself if not given."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Save after every so many optimizer steps."""
    checkpoint_every_s: float = Field(300.0, gt=0)
    """Save when the last checkpoint is this old."""


def placement(config: Config) -> Placement:
    """One process."""
    return Placement(1, 0.0 if config.device == "cpu" else 1.0, float(config.threads or 1))


def train(config: Config, job: Job, tools: "Tools | Any") -> Facts:
    """Train, or go on training, and leave the model at `job.out`."""
    import torch

    from trainers import _single

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        return _single.train(config, job, lambda done, total: tools.report(tools.address, done, total))
    finally:
        torch.set_num_threads(threads)
