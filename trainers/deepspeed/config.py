"""Over which ranks DeepSpeed trains: the profile's settings."""

from typing import Literal

from pydantic import Field

from pipeline.plugin import Settings


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
