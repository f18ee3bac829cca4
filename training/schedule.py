"""How many steps, at which learning rate, with which optimizer: the curves and defaults of transformers' Trainer."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training import batches
from training.job import Optimisation


def steps(optimisation: Optimisation, units: int) -> tuple[int, int]:
    """Optimizer steps that are run, and those that the schedule is laid out for."""
    each = batches.steps_per_epoch(units, optimisation.batch_size)
    return each * optimisation.num_train_epochs, each * (optimisation.schedule_total_epochs or optimisation.num_train_epochs)


def learning_rate(optimisation: Optimisation, step: int, total: int) -> float:
    """The rate of a step (from 0) in a schedule of `total` steps; the same curve as transformers' schedulers, 0 at step 0 of a warm-up."""
    warmup = math.ceil(total * optimisation.warmup_ratio)
    if step < warmup:
        return optimisation.learning_rate * step / warmup
    done = (step - warmup) / max(1, total - warmup)
    shape = {"constant": 1.0, "linear": max(0.0, 1.0 - done), "cosine": max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))}
    return optimisation.learning_rate * shape[optimisation.lr_scheduler_type]


def optimizer(named: Sequence[tuple[str, Tensor]], optimisation: Optimisation, **options: Any) -> torch.optim.Optimizer:
    """The optimizer over `named` parameters; vectors (norms and biases) are not decayed, as in transformers' Trainer."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for _, parameter in named:
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty tensor and remembers its shape
        groups[len(shape) > 1 and optimisation.weight_decay > 0].append(parameter)
    decays = [(optimisation.weight_decay, groups[True]), (0.0, groups[False])]
    settings = [{"params": params, "weight_decay": decay} for decay, params in decays if params]
    if optimisation.optim == "rmsprop":
        return torch.optim.RMSprop(settings, lr=optimisation.learning_rate)
    betas = (optimisation.adam_beta1, optimisation.adam_beta2)
    return torch.optim.AdamW(settings, lr=optimisation.learning_rate, betas=betas, eps=optimisation.adam_epsilon, **options)
