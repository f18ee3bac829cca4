"""Starting and ending vLLM: settings that avoid its known failures, and the traces that it would leave in this process.

Knows vLLM 0.32. What is asked of it and what it answers is the business of `__init__.py`.
"""

# vLLM is not installed wherever types are checked.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

import os
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from engines.vllm.config import Config
from pipeline.errors import Refusal
from pipeline.processes import guard


@contextmanager
def contained(config: Config) -> Generator[None, None, None]:
    """Within the block this process is fit for an engine; afterwards it is as it was before.

    vLLM sets LD_PRELOAD, LOCAL_WORLD_SIZE and more, and replaces torch.set_num_threads: poison for whatever this
    process does next. On a CPU it also binds memory to the NUMA node, which stays.
    """
    import torch

    before, set_num_threads, threads = dict(os.environ), torch.set_num_threads, torch.get_num_threads()
    own = config.device == "cuda" if config.own_process is None else config.own_process
    os.environ.update(_environment(config, own))
    if config.device == "cpu" and config.threads:
        torch.set_num_threads(config.threads)
    apart = own or config.tensor_parallel_size > 1
    try:
        # A `kill -9` of this process would leave the engine's core and its workers alive, with the GPU's memory.
        with guard(end_with_block=False) if apart else nullcontext():
            yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _environment(config: Config, own: bool) -> dict[str, str]:
    found = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if own else "0"}
    if "VLLM_LOGGING_LEVEL" not in os.environ:
        found["VLLM_LOGGING_LEVEL"] = "ERROR" if config.device == "cpu" else "WARNING"
    if own:
        found["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # a forked child cannot use CUDA if this process has touched it
    if config.device == "cpu":
        found["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # replicas would all be bound to the same cores
        if config.threads:
            found["OMP_NUM_THREADS"] = str(config.threads)
    return found


def start(config: Config, folder: Path, seed: int) -> Any:
    """A vllm.LLM over `folder`. Raises Refusal if the installed vLLM is for another device."""
    import vllm
    from vllm.platforms import current_platform

    if current_platform.device_type != config.device:
        raise Refusal(
            f"engine vllm: `device: {config.device}`, but the installed vLLM {vllm.__version__} runs on "
            f"'{current_platform.device_type or 'nothing here'}'; set the profile's engine.device, or install the other build"
        )
    return vllm.LLM(model=str(folder), seed=seed & (1 << 31) - 1, **settings(config, folder))


def settings(config: Config, folder: Path) -> dict[str, Any]:
    """The engine arguments of a config."""
    found: dict[str, Any] = {
        "dtype": config.dtype,
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "enforce_eager": config.device == "cpu" if config.enforce_eager is None else config.enforce_eager,
        "enable_prefix_caching": config.enable_prefix_caching,
        "logprobs_mode": "raw_logprobs",
        "generation_config": "vllm",  # sampling settings are the recipe's, not those that a model folder suggests
        "trust_remote_code": False,
        "use_tqdm_on_load": False,
    }
    if config.kv_cache_gib or config.device == "cpu":
        found["kv_cache_memory_bytes"] = int((config.kv_cache_gib or 1.0) * (1 << 30))
    if config.tensor_parallel_size > 1:
        found["distributed_executor_backend"] = "mp"  # inside a Ray actor vLLM would take GPUs from Ray on its own
    if config.device == "cpu":
        # A seeded request whose prompt is split into chunks kills the CPU engine: it rewinds the request's generator,
        # which CPU generators cannot. So prompts are never split.
        context = config.max_model_len or _context(folder)
        found["enable_chunked_prefill"] = False
        found["max_num_batched_tokens"] = max(config.max_num_batched_tokens or 8192, context)
    return found


def _context(folder: Path) -> int:
    from transformers import AutoConfig

    from models.weights import context_of

    return context_of(AutoConfig.from_pretrained(folder, local_files_only=True))


def stop(llm: Any) -> None:
    """End the engine and its processes, and free its memory in this one."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    del llm
    cleanup_dist_env_and_memory()
