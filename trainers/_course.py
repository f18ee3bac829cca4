"""A training under way: what a trainer brings to it, what its steps leave to those after them, and what is left at its end.

A trainer brings a Worker: how to run a forward, how to add up over ranks, how to store its state.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

import objectives
from pipeline.artifact import Facts
from trainers import Job, _checkpoint, _labels
from trainers._batches import Layout
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
