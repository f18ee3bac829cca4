"""One rank of the DeepSpeed trainer; runs in a process of its own.

DeepSpeed averages gradients over ranks and knows nothing of weights or ragged batches. So the loop divides by the
global count, this file multiplies by the number of shares to undo the average, and says itself which micro-batch
is the last of a step.
"""

# DeepSpeed is not installed wherever types are checked.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifact import Facts
from trainers.deepspeed.config import Config
from training.checkpoint import Checkpoint
from training.job import Job
from training.policy import Policy, reference_of

if TYPE_CHECKING:
    from torch import Tensor

    from models.layout import Layout

TAG = "state"


def maker(config: Config) -> dict[str, Any]:
    """What a checkpoint of this configuration can be read by."""
    return {"trainer": "deepspeed", "ranks": config.world, "zero_stage": config.zero_stage, "bf16": config.bf16}


def train(config: Config, job: Job, begun: Checkpoint | None) -> Facts:
    """The whole training as one rank sees it; every rank returns the same facts."""
    _environment(config)
    import deepspeed
    import torch

    from training import data, loop, progress
    from training import state as training_state

    torch.set_num_threads(max(1, int(config.cpus_per_rank)))
    device = f"cuda:{os.environ['LOCAL_RANK']}" if config.gpus else "cpu"
    if config.gpus:
        torch.cuda.set_device(device)
    deepspeed.init_distributed(dist_backend="nccl" if config.gpus else "gloo")
    try:
        examples = data.read(job)
        worker = Rank(config, job, device)
        worker.check()
        report = progress.written(job.work) if worker.rank == 0 else lambda done, total, metrics: None
        training = training_state.begin(job, examples, worker, config.tokens_per_device, begun)
        loop.run(training, config, maker(config), report)
        worker.publish(job, device)
        if worker.rank == 0:
            training_state.leave(training)
        return training_state.facts(training, begun)
    finally:
        torch.distributed.destroy_process_group()


def _environment(config: Config) -> None:
    """What DeepSpeed reads when it is imported."""
    if not config.gpus:
        os.environ["DS_ACCELERATOR"] = "cpu"
        return
    import torch

    if int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
        os.environ["LOCAL_RANK"] = "0"  # this process was shown its own GPU alone


def settings(config: Config, job: Job) -> dict[str, Any]:
    """DeepSpeed's own configuration. Batch sizes are placeholders: the loop cuts batches itself."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer and config.zero_stage:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": bool(config.gpus)}
    if config.offload_param and config.zero_stage == 3:
        zero["offload_param"] = {"device": "cpu", "pin_memory": bool(config.gpus)}
    return {
        "train_batch_size": config.world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": job.optimisation.max_grad_norm,
        "bf16": {"enabled": config.bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


class Rank:
    """A DeepSpeed engine behind the loop's Worker protocol."""

    def __init__(self, config: Config, job: Job, device: str) -> None:
        import deepspeed
        import torch
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        from models import forward as forwards
        from training import schedule

        self.rank, self.device = torch.distributed.get_rank(), device
        self.share, self.shares = self.rank, torch.distributed.get_world_size()
        chosen = settings(config, job)
        dtype = "bfloat16" if config.bf16 else "float32"
        reference = reference_of(job, dtype, device)  # before anything divides what is loaded
        # While this lives, transformers divides the weights among ranks as it loads them (stage 3).
        self._partition_on_load = HfDeepSpeedConfig(chosen) if config.zero_stage == 3 else None
        model = forwards.read(job.model, dtype)
        if config.gradient_checkpointing:
            forwards.checkpoint_activations(model)

        # DeepSpeed prepares what goes through its module's `forward`, so the whole pass has to.
        module = Policy(model, job, reference).to(dtype=next(model.parameters()).dtype).train(model.training)
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=schedule.optimizer(named, job.optimisation), config=chosen)
        self._model, self._stage = model, config.zero_stage

    def check(self) -> None:
        """Refuse a model whose logits the forward gets wrong; every rank takes part."""
        from models import forward as forwards

        forwards.check(self._model)

    def forward(self, laid: "Layout") -> "dict[str, Tensor]":
        return self._engine(laid)

    def backward(self, loss: "Tensor", last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self.shares, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        # Stage 0 in float32 clips without telling the norm; its gradients are whole on every rank by now.
        norm = self._local_norm() if self._stage == 0 else None
        self._engine.step()
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def _local_norm(self) -> float | None:
        import torch

        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item() if gradients else None

    def total(self, values: "Tensor") -> list[float]:
        import torch

        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed.tolist()

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        self._engine.load_checkpoint(str(folder), tag=TAG)

    def gathered(self) -> dict[str, "Tensor"]:
        """The whole weights on the first rank, in the precision that they were trained in; nothing elsewhere."""
        import deepspeed

        found: dict[str, Tensor] = {}
        for name, parameter in self._model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._stage == 3):
                if self.rank == 0:
                    found[name] = parameter.detach().cpu().clone()
        found.update({name: buffer.detach().cpu() for name, buffer in _kept_buffers(self._model)} if self.rank == 0 else {})
        return found

    def publish(self, job: Job, device: str) -> None:
        """Leave the model folder; the first rank writes."""
        import torch

        from models import folder as model_folder

        state = self.gathered()
        model = self._model
        self._engine.destroy()
        del self._engine, self._partition_on_load
        if device != "cpu":
            torch.cuda.empty_cache()
        if self.rank == 0:
            model_folder.write(model, job.model.folder, job.out, device, state)
        torch.distributed.barrier()


def _kept_buffers(model: Any) -> list[tuple[str, "Tensor"]]:
    """The buffers that belong to a model's saved state."""
    saved = set(model.state_dict())
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
