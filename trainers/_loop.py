"""The loop of every trainer: order, batches, reduction, schedule, metrics, refusals, checkpoints.

A trainer brings a Worker: how to run a forward, how to add up over ranks, how to store its state. What a step
minimises is the sum of its unit losses over all ranks and micro-batches, divided by their total weight, which
every rank reads off the data, so that no machine setting changes the result beyond float noise. An objective whose
losses depend on each other first sees the whole step without gradient (`_whole`).
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

import objectives
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from trainers import Job, Optimisation, _batches, _checkpoint, _labels, _schedule
from trainers._batches import Layout, Micro
from trainers._examples import Examples

if TYPE_CHECKING:
    from torch import Tensor

METRICS = "metrics.jsonl"
LABELS = "labels.npy"


class Worker(Protocol):
    """One rank of a trainer."""

    rank: int
    ranks: int
    device: str

    def forward(self, laid: Layout) -> "dict[str, Tensor]":
        """What the objective wants to see of response tokens, (N, T) each with gradient: `logps`, and what else it needs."""
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


@dataclass
class Course:
    """A training under way: what does not change in it, and what its steps leave to those after them."""

    job: Job
    examples: Examples
    worker: Worker
    tokens: int
    """Padded tokens of a micro-batch."""
    labels_U: np.ndarray
    """The pairs' labels as the objective last set them."""
    state: dict[str, float]
    """The objective's numbers."""
    metrics: list[dict[str, Any]]
    moves_labels: bool = False

    @property
    def loss(self) -> Any:
        return self.job.objective.module

    @property
    def unit(self) -> str:
        return objectives.unit(self.job.objective)


def step_units(optimisation: Optimisation, units: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """The epoch (from 0) and the units of each optimizer step, in order."""
    for epoch in range(optimisation.num_train_epochs):
        order = _batches.permutation(units, seed, epoch)
        for start in range(0, units, optimisation.batch_size):
            yield epoch, order[start : start + optimisation.batch_size]


def begin(job: Job, examples: Examples, worker: Worker, tokens: int, begun: _checkpoint.Checkpoint | None) -> Course:
    """A training at its start, or where `begun` was saved."""
    state = dict(getattr(job.objective.module, "STATE", {}))
    course = Course(job, examples, worker, tokens, examples.labels_U.copy(), state, [])
    if begun:
        worker.load(begun.folder)
        course.metrics = list(begun.metrics)
        course.state = course.metrics[-1].get("state", state)
        course.labels_U = np.load(begun.folder / LABELS)
    return course


def run(course: Course, pace: Pace, maker: dict[str, Any], report: Callable[[int, int], None]) -> None:
    """Train to the end."""
    job, units_U = course.job, len(course.examples.units_UW)
    count, scheduled = _schedule.steps(job.optimisation, units_U)
    report(len(course.metrics), count)
    saved_at = time.monotonic()
    for step, (epoch, units) in enumerate(step_units(job.optimisation, units_U, job.seed)):
        if step < len(course.metrics):
            continue
        rate = _schedule.learning_rate(job.optimisation, step, scheduled)
        overdue = time.monotonic() - saved_at >= pace.checkpoint_every_s
        found, overdue = take_step(course, units, f"step {step + 1} of {count}", rate, overdue)
        course.metrics.append({"step": step + 1, "epoch": epoch + 1, "learning_rate": rate, **found})
        report(step + 1, count)
        if step + 1 < count and (overdue or (pace.checkpoint_steps and (step + 1) % pace.checkpoint_steps == 0)):
            save(course, maker)
            saved_at = time.monotonic()


def take_step(course: Course, units: np.ndarray, where: str, rate: float, overdue: bool) -> tuple[dict[str, Any], bool]:
    """One optimizer step; returns its metrics, and whether the first rank finds that it is time to save."""
    examples, worker = course.examples, course.worker
    divisor = _batches.weight(examples, units, course.unit) or 1.0
    dealt = _batches.deal(examples, units, course.tokens, worker.ranks)[worker.rank]
    whole = _whole(course, units, dealt)
    # [loss, share of saving, then a sum and a count for each term].
    sums: Tensor | None = None
    names: list[str] = []
    labels_U = torch.zeros(len(units), dtype=torch.float64, device=worker.device)
    for i, members in enumerate(dealt):
        share = 0.0 if members is None else 1.0  # ranks must do the same number of collectives, so an idle one computes and adds nothing
        micro = Micro.of(examples, _smallest(examples) if members is None else members, worker.device)
        batch = _batch(course, micro, units, whole, idle=members is None)
        loss = course.loss.loss(course.job.objective.config, batch)
        names = list(loss.terms)
        summed = loss.per_unit.sum() / divisor
        if loss.per_chosen_token_PT is not None:
            summed = summed + loss.per_chosen_token_PT.sum() / (_batches.weight(examples, units, "chosen_token") or 1.0)
        worker.backward(summed * share, last=i == len(dealt) - 1)
        if loss.label_P is not None:
            course.moves_labels = True
            if members is not None:
                labels_U[batch.whole_at_U] = loss.label_P.to(labels_U)
        counted = [value for name in names for value in (loss.terms[name].sum(), torch.tensor(loss.terms[name].numel()).to(summed))]
        part = torch.stack([summed.detach(), *counted]).double() * share
        sums = part if sums is None else sums + part
    assert sums is not None
    flag = torch.tensor([float(overdue and worker.rank == 0)], dtype=sums.dtype, device=sums.device)
    value, *terms, save_now = worker.total(torch.cat([sums, flag]))
    _finite("loss", value, where, rate)
    norm = worker.step(rate)
    _finite("gradient norm", norm, where, rate)
    if course.moves_labels:
        course.labels_U[units] = worker.total(labels_U)
    responses = np.concatenate([_batches.responses_of(examples, units), examples.extras_UE[units].ravel()])
    found = {"loss": value, "grad_norm": norm, "units": len(units), "tokens": int(examples.lengths_N[responses].sum())}
    found |= {name: total / max(number, 1.0) for name, total, number in zip(names, terms[::2], terms[1::2], strict=True)}
    return found | ({"state": course.state} if course.state else {}), save_now > 0


def _whole(course: Course, units: np.ndarray, dealt: list[np.ndarray | None]) -> "dict[str, Tensor]":
    """What the objective gathers of every unit of the step, in the step's order, on all ranks; and its numbers brought up to date."""
    objective, worker, config = course.loss, course.worker, course.job.objective.config
    if not hasattr(objective, "gather"):
        return {}
    found: dict[str, Tensor] = {}
    for members in dealt:
        with torch.no_grad():
            micro = Micro.of(course.examples, _smallest(course.examples) if members is None else members, worker.device)
            batch = _batch(course, micro, units, {}, idle=members is None)
            for name, value in objective.gather(config, batch).items():
                kept = found.setdefault(name, torch.zeros(len(units), dtype=torch.float64, device=worker.device))
                if members is not None:
                    kept[batch.whole_at_U] = value.double()
    whole = {name: torch.tensor(worker.total(value), dtype=torch.float64, device=worker.device) for name, value in found.items()}
    if hasattr(objective, "update"):
        course.state = objective.update(config, course.state, whole)
    return whole


def _batch(course: Course, micro: Micro, units: np.ndarray, whole: "dict[str, Tensor]", *, idle: bool) -> objectives.Batch:
    seen = course.worker.forward(micro.laid)
    batch = _batches.objective_batch(course.examples, micro, course.labels_U, seen)
    order = np.argsort(units)
    at = np.zeros(len(micro.units), np.int64) if idle else order[np.searchsorted(units, micro.units, sorter=order)]
    at_U = torch.from_numpy(at).to(course.worker.device)
    mine = {name: value.to(batch.logps_NT.dtype) for name, value in whole.items()}
    return replace(batch, whole=mine, whole_at_U=at_U, state=course.state)


def _smallest(examples: Examples) -> np.ndarray:
    """The cheapest unit, for a rank that has nothing to do."""
    members_UW = examples.units_UW
    return np.asarray([int(np.where(members_UW < 0, 0, examples.lengths_N[members_UW]).sum(1).argmin())])


def _finite(what: str, value: float, where: str, rate: float) -> None:
    if not math.isfinite(value):
        raise Refusal(
            f"training: {what} is {value} at {where} (learning rate {rate:.3g}); nothing was kept of this step: lower learning_rate or "
            "max_grad_norm, raise warmup_ratio, or look at the rows and at the model that training starts from"
        )


def save(course: Course, maker: dict[str, Any]) -> None:
    """Write a checkpoint; every rank calls it."""
    work, worker, step = course.job.work, course.worker, len(course.metrics)
    part = _checkpoint.begin(work, step) if worker.rank == 0 else work / f".checkpoint-{step:08d}.part"
    worker.total(torch.zeros(1, device=worker.device))  # nobody writes before the folder is there
    worker.save(part)
    if worker.rank == 0:
        np.save(part / LABELS, course.labels_U)
        _checkpoint.seal(work, step, maker, course.metrics)
    worker.total(torch.zeros(1, device=worker.device))


def leave(course: Course) -> None:
    """What stands beside the model: a line of JSON for each step, without times, and the labels if the objective moves them.

    A training has the same digest wherever it was interrupted.
    """
    out = course.job.out
    (out / METRICS).write_text("".join(json.dumps(each) + "\n" for each in course.metrics))
    if course.moves_labels:
        _labels.write(out, course.examples.ids_U, course.labels_U)


def facts(course: Course, begun: _checkpoint.Checkpoint | None) -> Facts:
    """What a manifest says of a training: counts, and the first and last step's values."""
    metrics = course.metrics
    first, last = metrics[0], metrics[-1]
    told = [name for name in first if name not in ("step", "epoch", "units", "tokens", "learning_rate", "state")]
    return {
        **course.examples.facts,
        "steps": len(metrics),
        "tokens": sum(each["tokens"] for each in metrics),
        "resumed_at_step": begun.step if begun else 0,
        **{f"{name}_first": first[name] for name in told},
        **{f"{name}_last": last[name] for name in told},
        "grad_norm_max": max(each["grad_norm"] for each in metrics),
    }
