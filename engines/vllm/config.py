"""How vLLM runs: the profile's settings."""

from typing import Literal

from pydantic import Field

from pipeline.plugin import Settings


class Config(Settings):
    device: Literal["cuda", "cpu"] = "cuda"
    """What the installed vLLM was built for; `cpu` is for tests."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Weights and activations; use float32 on a CPU, where bfloat16 is emulated."""
    replicas: int = Field(1, ge=1)
    """Engines, each with its own copy of the model."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share one copy of the model."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of each GPU's memory that the engine takes."""
    max_model_len: int | None = Field(None, ge=2)
    """Tokens of prompt and response together; None: what the model was made for."""
    max_num_seqs: int | None = Field(None, ge=1)
    """Responses in flight; None: vLLM's choice."""
    max_num_batched_tokens: int | None = Field(None, ge=1)
    """Tokens of one engine step; None: vLLM's choice. On a CPU at least the context (see `process.settings`)."""
    enforce_eager: bool | None = None
    """Skip compilation and CUDA graphs; None: on a CPU only."""
    enable_prefix_caching: bool = True
    """Compute common beginnings of prompts once."""
    kv_cache_gib: float | None = Field(None, gt=0)
    """Memory for keys and values; None: what `gpu_memory_utilization` leaves, and 1 GiB on a CPU."""
    own_process: bool | None = None
    """Run the engine's core in a process of its own, whose exit frees the GPU; None: on cuda only (a CPU start takes a minute more)."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each engine; None: torch's choice."""
    cpus: float = Field(1.0, gt=0)
    """CPU cores that the executor reserves for each engine."""
