"""What a step asks of the machine, as the profile says it: how many workers, and what each of them takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from pipeline.profile import Profile

Need = Literal["engine", "forward", "trainer"]
"""What a stage or a judge runs: an engine that generates, plain forward passes, a trainer."""
NOTHING: frozenset[Need] = frozenset()


@dataclass(frozen=True)
class Placement:
    """`workers` processes, each with this many GPUs and CPU cores."""

    workers: int = 1
    gpus: float = 0.0
    cpus: float = 1.0


def placement(profile: Profile, uses: Iterable[Need]) -> Placement:
    """What each worker of a step takes that needs all of `uses` at once: the sum of what each of them takes.

    There are as many workers as the scarcest of them has. Above one GPU only whole ones can be had.
    """
    parts = [_of(profile, need) for need in sorted(uses)]
    if not parts:
        return Placement(profile.workers)
    gpus = sum(part.gpus for part in parts)
    return Placement(min(part.workers for part in parts), gpus if gpus <= 1 else ceil(gpus), sum(part.cpus for part in parts))


def _of(profile: Profile, need: Need) -> Placement:
    if need == "engine":
        return profile.engine.module.placement(profile.engine.config)
    if need == "trainer":
        return profile.trainer.module.placement(profile.trainer.config)
    return Placement(profile.forward.replicas, profile.forward.gpu_fraction, profile.forward.cpus)
