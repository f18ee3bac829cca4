"""Which cluster steps run on: the profile's settings."""

from pydantic import Field

from pipeline.plugin import Settings


class Config(Settings):
    address: str | None = None
    """`auto` or `host:port` of a cluster that runs; none: start one here, which ends with this process."""
    num_cpus: int | None = Field(None, ge=1)
    """Cores of a cluster that is started here; none: those of the machine."""
    num_gpus: int | None = Field(None, ge=0)
    """GPUs of a cluster that is started here; none: those of the machine."""
    attempts: int = Field(3, ge=1)
    """How often one shard, or one gang of ranks, may lose its process before the step fails."""
    insecure: bool = False
    """Work on a cluster without token authentication: whoever reaches it can run code as you."""
    log_to_driver: bool = False
    """Print what workers print."""
