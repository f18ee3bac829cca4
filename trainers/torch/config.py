"""Where one process trains: the profile's settings."""

from pydantic import Field

from pipeline.plugin import Settings


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
