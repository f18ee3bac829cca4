"""The torch trainer's worker: one process, one device."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import folder as model_folder
from models import forward as forwards
from models.layout import Layout
from pipeline.artifact import Facts
from trainers.torch.config import Config
from training import checkpoint, data, loop, optimizer, schedule
from training import state as training_state
from training.job import Job
from training.policy import Policy, reference_of
from training.progress import Report


def train(config: Config, job: Job, report: Report) -> Facts:
    """Train, or go on from the newest checkpoint in `job.work`, and leave the model at `job.out`."""
    maker = {"trainer": "torch", "dtype": config.dtype}
    begun = checkpoint.newest(job.work, maker)
    examples = data.read(job)
    model = forwards.load(job.model, config.dtype, config.device)
    if config.gradient_checkpointing:
        forwards.checkpoint_activations(model)
    worker = Single(Policy(model, job, reference_of(job, config.dtype, config.device)), job, config.device)
    training = training_state.begin(job, examples, worker, config.tokens_per_device, begun)
    loop.run(training, config, maker, report)
    model_folder.write(model, job.model.folder, job.out, config.device)
    training_state.leave(training)
    if job.keep_optimizer:
        worker.leave_optimizer(job.out)
    return training_state.facts(training, begun)


class Single:
    """Holds the model, its float32 master weights (the model's own if it is float32) and the optimizer."""

    share, shares, rank = 0, 1, 0

    def __init__(self, policy: Policy, job: Job, device: str) -> None:
        self.device = device
        self._policy = policy.to(device)
        self._named: list[tuple[str, Tensor]] = [(name, p) for name, p in policy.named_parameters() if p.requires_grad]
        self._parameters = [p for _, p in self._named]
        self._apart = self._parameters[0].dtype not in (torch.float32, torch.float64)
        masters = [p.detach().float() for p in self._parameters] if self._apart else self._parameters
        self._masters = masters
        named = [(name, master) for (name, _), master in zip(self._named, masters, strict=True)]
        faster = {"fused": True} if job.optimisation.optim == "adamw" else {}
        self._optimizer = schedule.optimizer(named, job.optimisation, **faster)
        self._max_norm = job.optimisation.max_grad_norm
        if job.optimizer is not None:
            names = [name for name, _ in named]
            optimizer.load(self._optimizer, names, masters, job.optimizer)

    def forward(self, laid: Layout) -> dict[str, Tensor]:
        return self._policy(laid)

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()
        if self._apart:
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                if parameter.grad is not None:
                    gradient = parameter.grad.float()
                    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                    parameter.grad = None

    def step(self, learning_rate: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self._masters, self._max_norm).item()
        if norm == norm and norm != float("inf"):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
            if self._apart:
                with torch.no_grad():
                    for parameter, master in zip(self._parameters, self._masters, strict=True):
                        parameter.copy_(master)
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def total(self, values: Tensor) -> list[float]:
        return values.tolist()

    def leave_optimizer(self, out: Path) -> None:
        """Write the optimizer's state beside the model."""
        optimizer.save(self._optimizer, [name for name, _ in self._named], self._masters, out)

    def save(self, folder: Path) -> None:
        named = zip(self._named, self._masters, strict=True)
        save_file({name: master.detach().contiguous() for (name, _), master in named}, folder / "weights.safetensors")
        torch.save({"optimizer": self._optimizer.state_dict(), "rng": torch.get_rng_state()}, folder / "state.pt")

    def load(self, folder: Path) -> None:
        weights = load_file(folder / "weights.safetensors")
        with torch.no_grad():
            for (name, parameter), master in zip(self._named, self._masters, strict=True):
                master.copy_(weights[name])
                parameter.copy_(master)
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
