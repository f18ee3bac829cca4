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
from models.layout import Layout
from pipeline.artifact import Facts
from training import checkpoint, labels
from training.examples import Examples
from training.job import Job

if TYPE_CHECKING:
    from torch import Tensor

METRICS = "metrics.jsonl"
LABELS = "labels.npy"


class Worker(Protocol):
    """One process of a trainer. Which units it works on is one thing, which process it is another: ranks that divide one forward between
    them (sequence or tensor parallel) have one share in common."""

    share: int
    """Which part of each step's units this process works on, from 0."""
    shares: int
    """Into how many parts each step's units are dealt."""
    rank: int
    """Which process this is, from 0; the first writes what is written once."""
    device: str

    def forward(self, laid: Layout) -> "dict[str, Tensor]":
        """What the objective wants to see of response tokens, (N, T) each with gradient: `logps`, and what else it needs."""
        ...

    def backward(self, loss: "Tensor", last: bool) -> None:
        """Add the gradient of this share of the step's loss; `last` in the step's last micro-batch."""
        ...

    def step(self, learning_rate: float) -> float:
        """Clip, update, forget the gradients; returns the norm before clipping. What is left after one that is not finite is never kept."""
        ...

    def total(self, values: "Tensor") -> list[float]:
        """The sum over all shares, each counted once; every rank calls it and is told the same."""
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
class TrainingState:
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


def begin(job: Job, examples: Examples, worker: Worker, tokens: int, begun: checkpoint.Checkpoint | None) -> TrainingState:
    """A training at its start, or where `begun` was saved."""
    state = dict(getattr(job.objective.module, "STATE", {}))
    training = TrainingState(job, examples, worker, tokens, examples.labels_U.copy(), state, [])
    if begun:
        worker.load(begun.folder)
        training.metrics = list(begun.metrics)
        training.state = training.metrics[-1].get("state", state)
        training.labels_U = np.load(begun.folder / LABELS)
    return training


def save(training: TrainingState, maker: dict[str, Any]) -> None:
    """Write a checkpoint; every rank calls it."""
    work, worker, step = training.job.work, training.worker, len(training.metrics)
    part = checkpoint.begin(work, step) if worker.rank == 0 else work / f".checkpoint-{step:08d}.part"
    worker.total(torch.zeros(1, device=worker.device))  # nobody writes before the folder is there
    worker.save(part)
    if worker.rank == 0:
        np.save(part / LABELS, training.labels_U)
        checkpoint.seal(work, step, maker, training.metrics)
    worker.total(torch.zeros(1, device=worker.device))


def leave(training: TrainingState) -> None:
    """What stands beside the model: a line of JSON for each step, without times, and the labels if the objective moves them.

    A training has the same digest wherever it was interrupted.
    """
    out = training.job.out
    (out / METRICS).write_text("".join(json.dumps(each) + "\n" for each in training.metrics))
    if training.moves_labels:
        labels.write(out, training.examples.ids_U, training.labels_U)


def facts(training: TrainingState, begun: checkpoint.Checkpoint | None) -> Facts:
    """What a manifest says of a training: counts, and the first and last step's values."""
    metrics = training.metrics
    first, last = metrics[0], metrics[-1]
    told = [name for name in first if name not in ("step", "epoch", "units", "tokens", "learning_rate", "state")]
    return {
        **training.examples.facts,
        "steps": len(metrics),
        "tokens": sum(each["tokens"] for each in metrics),
        "resumed_at_step": begun.step if begun else 0,
        **{f"{name}_first": first[name] for name in told},
        **{f"{name}_last": last[name] for name in told},
        "grad_norm_max": max(each["grad_norm"] for each in metrics),
    }
