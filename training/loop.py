"""The loop of every trainer: order, batches, reduction, schedule, refusals.

What a step minimises is the sum of its unit losses over all ranks and micro-batches, divided by their total weight, which
every rank reads off the data, so that no machine setting changes the result beyond float noise. An objective whose
losses depend on each other first sees the whole step without gradient (`_whole`).
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import objectives
from pipeline.errors import Refusal
from training import batches, schedule, state
from training.batches import MicroBatch
from training.examples import Examples
from training.job import Optimisation
from training.progress import Report
from training.state import Pace, TrainingState

if TYPE_CHECKING:
    from torch import Tensor


def step_units(optimisation: Optimisation, units: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """The epoch (from 0) and the units of each optimizer step, in order."""
    for epoch in range(optimisation.num_train_epochs):
        order = batches.permutation(units, seed, epoch)
        for start in range(0, units, optimisation.batch_size):
            yield epoch, order[start : start + optimisation.batch_size]


def run(training: TrainingState, pace: Pace, maker: dict[str, Any], report: Report) -> None:
    """Train to the end."""
    job, units_U = training.job, len(training.examples.units_UW)
    count, scheduled = schedule.steps(job.optimisation, units_U)
    report(len(training.metrics), count, {})
    saved_at = time.monotonic()
    for step, (epoch, units) in enumerate(step_units(job.optimisation, units_U, job.seed)):
        if step < len(training.metrics):
            continue
        rate = schedule.learning_rate(job.optimisation, step, scheduled)
        overdue = time.monotonic() - saved_at >= pace.checkpoint_every_s
        found, overdue = take_step(training, units, f"step {step + 1} of {count}", rate, overdue)
        training.metrics.append({"step": step + 1, "epoch": epoch + 1, "learning_rate": rate, **found})
        report(step + 1, count, training.metrics[-1])
        if step + 1 < count and (overdue or (pace.checkpoint_steps and (step + 1) % pace.checkpoint_steps == 0)):
            state.save(training, maker)
            saved_at = time.monotonic()


def take_step(training: TrainingState, units: np.ndarray, where: str, rate: float, overdue: bool) -> tuple[dict[str, Any], bool]:
    """One optimizer step; returns its metrics, and whether the first rank finds that it is time to save."""
    examples, worker = training.examples, training.worker
    divisor = batches.weight(examples, units, training.unit) or 1.0
    dealt = batches.deal(examples, units, training.tokens, worker.shares)[worker.share]
    whole = _whole(training, units, dealt)
    # [loss, share of saving, then a sum and a count for each term].
    sums: Tensor | None = None
    names: list[str] = []
    labels_U = torch.zeros(len(units), dtype=torch.float64, device=worker.device)
    for i, members in enumerate(dealt):
        counts = 0.0 if members is None else 1.0  # ranks must do the same number of collectives, so an idle one computes and adds nothing
        micro = MicroBatch.of(examples, _smallest(examples) if members is None else members, worker.device)
        batch = _batch(training, micro, units, whole, idle=members is None)
        loss = training.loss.loss(training.job.objective.config, batch)
        names = list(loss.terms)
        summed = loss.per_unit.sum() / divisor
        if loss.per_chosen_token_PT is not None:
            summed = summed + loss.per_chosen_token_PT.sum() / (batches.weight(examples, units, "chosen_token") or 1.0)
        worker.backward(summed * counts, last=i == len(dealt) - 1)
        if loss.label_P is not None:
            training.moves_labels = True
            if members is not None:
                labels_U[batch.whole_at_U] = loss.label_P.to(labels_U)
        counted = [value for name in names for value in (loss.terms[name].sum(), torch.tensor(loss.terms[name].numel()).to(summed))]
        part = torch.stack([summed.detach(), *counted]).double() * counts
        sums = part if sums is None else sums + part
    assert sums is not None
    flag = torch.tensor([float(overdue and worker.rank == 0)], dtype=sums.dtype, device=sums.device)
    value, *terms, save_now = worker.total(torch.cat([sums, flag]))
    _finite("loss", value, where, rate)
    norm = worker.step(rate)
    _finite("gradient norm", norm, where, rate)
    if training.moves_labels:
        training.labels_U[units] = worker.total(labels_U)
    responses = np.concatenate([batches.responses_of(examples, units), examples.extras_UE[units].ravel()])
    found = {"loss": value, "grad_norm": norm, "units": len(units), "tokens": int(examples.lengths_N[responses].sum())}
    found |= {name: total / max(number, 1.0) for name, total, number in zip(names, terms[::2], terms[1::2], strict=True)}
    return found | ({"state": training.state} if training.state else {}), save_now > 0


def _whole(training: TrainingState, units: np.ndarray, dealt: list[np.ndarray | None]) -> "dict[str, Tensor]":
    """What the objective gathers of every unit of the step, in the step's order, on all ranks; and its numbers brought up to date."""
    objective, worker, config = training.loss, training.worker, training.job.objective.config
    if not hasattr(objective, "gather"):
        return {}
    found: dict[str, Tensor] = {}
    for members in dealt:
        with torch.no_grad():
            some = _smallest(training.examples) if members is None else members
            micro = MicroBatch.of(training.examples, some, worker.device, extras_alone=getattr(objective, "GATHERS", "") == "extra")
            batch = _batch(training, micro, units, {}, idle=members is None)
            for name, value in objective.gather(config, batch).items():
                kept = found.setdefault(name, torch.zeros(len(units), dtype=torch.float64, device=worker.device))
                if members is not None:
                    kept[batch.whole_at_U] = value.double()
    whole = {name: torch.tensor(worker.total(value), dtype=torch.float64, device=worker.device) for name, value in found.items()}
    if hasattr(objective, "update"):
        training.state = objective.update(config, training.state, whole)
    return whole


def _batch(training: TrainingState, micro: MicroBatch, units: np.ndarray, whole: "dict[str, Tensor]", *, idle: bool) -> objectives.Batch:
    seen = training.worker.forward(micro.laid)
    batch = batches.objective_batch(training.examples, micro, training.labels_U, seen)
    order = np.argsort(units)
    at = np.zeros(len(micro.units), np.int64) if idle else order[np.searchsorted(units, micro.units, sorter=order)]
    at_U = torch.from_numpy(at).to(training.worker.device)
    mine = {name: value.to(batch.logps_NT.dtype) for name, value in whole.items()}
    return replace(batch, whole=mine, whole_at_U=at_U, state=training.state)


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
