"""The loop of every trainer: order, batches, reduction, schedule, metrics, refusals, checkpoints.

A trainer brings a Worker: how to run a forward, how to add up over ranks, how to store its state. What a step
minimises is the sum of its unit losses over all ranks and micro-batches, divided by their total weight, which
every rank reads off the data, so that no machine setting changes the result beyond float noise.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from pipeline.artifact import Facts
from pipeline.errors import Refusal
from trainers import Job, Optimisation, _batches, _checkpoint, _schedule
from trainers._batches import Layout
from trainers._data import Examples

if TYPE_CHECKING:
    from torch import Tensor

METRICS = "metrics.jsonl"


class Worker(Protocol):
    """One rank of a trainer."""

    rank: int
    ranks: int
    device: str

    def forward(self, laid: Layout) -> "Tensor":
        """Log-probabilities of response tokens (N, T) with gradient."""
        ...

    def backward(self, loss: "Tensor", last: bool) -> None:
        """Add the gradient of this rank's share of the step's loss; `last` in the step's last micro-batch."""
        ...

    def step(self, learning_rate: float) -> float:
        """Clip, update, forget the gradients; returns the norm before clipping. What is left after one that is not finite is never kept."""
        ...

    def total(self, values: "Tensor") -> list[float]:
        """The sum over all ranks."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that `load` needs to go on exactly; every rank calls it, and all are done when it returns."""
        ...

    def load(self, folder: Path) -> None: ...


class Pace(Protocol):
    """The part of a trainer's Config that says how often it saves."""

    tokens_per_device: int
    checkpoint_steps: int | None
    checkpoint_every_s: float


def step_units(optimisation: Optimisation, units: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """The epoch (from 0) and the units of each optimizer step, in order."""
    for epoch in range(optimisation.num_train_epochs):
        order = _batches.permutation(units, seed, epoch)
        for start in range(0, units, optimisation.batch_size):
            yield epoch, order[start : start + optimisation.batch_size]


def run(
    job: Job,
    examples: Examples,
    worker: Worker,
    pace: Pace,
    maker: dict[str, Any],
    begun: _checkpoint.Checkpoint | None,
    report: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Train from `begun` (or from the start) to the end; returns the metrics of every step."""
    count, scheduled = _schedule.steps(job.optimisation, len(examples.units_U))
    metrics = list(begun.metrics) if begun else []
    if begun:
        worker.load(begun.folder)
    report(len(metrics), count)
    saved_at = time.monotonic()
    for step, (epoch, units) in enumerate(step_units(job.optimisation, len(examples.units_U), job.seed)):
        if step < len(metrics):
            continue
        rate = _schedule.learning_rate(job.optimisation, step, scheduled)
        overdue = time.monotonic() - saved_at >= pace.checkpoint_every_s
        found, overdue = _step(job, examples, worker, pace.tokens_per_device, units, f"step {step + 1} of {count}", rate, overdue)
        metrics.append({"step": step + 1, "epoch": epoch + 1, "learning_rate": rate, **found})
        report(step + 1, count)
        if step + 1 < count and (overdue or (pace.checkpoint_steps and (step + 1) % pace.checkpoint_steps == 0)):
            save(job.work, worker, step + 1, maker, metrics)
            saved_at = time.monotonic()
    return metrics


def _step(
    job: Job, examples: Examples, worker: Worker, tokens: int, units: np.ndarray, where: str, rate: float, overdue: bool
) -> tuple[dict[str, Any], bool]:
    """One optimizer step; returns its metrics, and whether the first rank finds that it is time to save."""
    objective = job.objective.module
    divisor = _batches.weight(examples, units, objective.UNIT)
    dealt = _batches.deal(examples, units, tokens, worker.ranks)[worker.rank]
    # [loss, share of saving, then a sum for each term]; the number of units is known to all.
    sums: Tensor | None = None
    names: list[str] = []
    for i, micro in enumerate(dealt):
        idle = micro is None
        members = micro if micro is not None else _smallest(examples)
        responses = _batches.responses_of(examples, members)
        laid = _batches.lay_out(examples, responses, worker.device)
        batch = _batches.objective_batch(examples, members, responses, laid, worker.forward(laid))
        loss = objective.loss(job.objective.config, batch)
        names = list(loss.terms)
        summed = loss.per_unit.sum() / (divisor or 1.0)
        share = 0.0 if idle else 1.0  # ranks must do the same number of collectives, so an idle one computes and adds nothing
        worker.backward(summed * share, last=i == len(dealt) - 1)
        part = torch.stack([summed.detach(), *(loss.terms[name].sum() for name in names)]).double() * share
        sums = part if sums is None else sums + part
    assert sums is not None
    flag = torch.tensor([float(overdue and worker.rank == 0)], dtype=sums.dtype, device=sums.device)
    value, *terms, save_now = worker.total(torch.cat([sums, flag]))
    _finite("loss", value, where, rate)
    norm = worker.step(rate)
    _finite("gradient norm", norm, where, rate)
    of_terms = _batches.weight(examples, units, objective.UNIT) if objective.UNIT != "pair" else float(len(units))
    tokens_seen = int(examples.lengths_N[_batches.responses_of(examples, units)].sum())
    found = {"loss": value, "grad_norm": norm, "units": len(units), "tokens": tokens_seen}
    return {**found, **{name: term / of_terms for name, term in zip(names, terms, strict=True)}}, save_now > 0


def _smallest(examples: Examples) -> np.ndarray:
    """The cheapest unit, for a rank that has nothing to do."""
    return np.asarray([int(examples.lengths_N[examples.units_U].sum(1).argmin())])


def _finite(what: str, value: float, where: str, rate: float) -> None:
    if not math.isfinite(value):
        raise Refusal(
            f"training: {what} is {value} at {where} (learning rate {rate:.3g}); nothing was kept of this step: lower learning_rate or "
            "max_grad_norm, raise warmup_ratio, or look at the rows and at the model that training starts from"
        )


def save(work: Path, worker: Worker, step: int, maker: dict[str, Any], metrics: list[dict[str, Any]]) -> None:
    """Write a checkpoint; every rank calls it."""
    part = _checkpoint.begin(work, step) if worker.rank == 0 else work / f".checkpoint-{step:08d}.part"
    worker.total(torch.zeros(1, device=worker.device))  # nobody writes before the folder is there
    worker.save(part)
    if worker.rank == 0:
        _checkpoint.seal(work, step, maker, metrics)
    worker.total(torch.zeros(1, device=worker.device))


def write_metrics(out: Path, metrics: list[dict[str, Any]]) -> None:
    """One line of JSON for each step; no times in it, so that a training has the same digest wherever it was interrupted."""
    (out / METRICS).write_text("".join(json.dumps(each) + "\n" for each in metrics))


def facts(examples: Examples, metrics: list[dict[str, Any]], begun: _checkpoint.Checkpoint | None) -> Facts:
    """What a manifest says of a training: counts, and the first and last step's values."""
    first, last = metrics[0], metrics[-1]
    told = [name for name in first if name not in ("step", "epoch", "units", "tokens", "learning_rate")]
    return {
        **examples.facts,
        "steps": len(metrics),
        "tokens": sum(each["tokens"] for each in metrics),
        "resumed_at_step": begun.step if begun else 0,
        **{f"{name}_first": first[name] for name in told},
        **{f"{name}_last": last[name] for name in told},
        "grad_norm_max": max(each["grad_norm"] for each in metrics),
    }
