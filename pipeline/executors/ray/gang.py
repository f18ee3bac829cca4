"""Ranks under Ray: one actor each, all in one placement group, so that they start together or wait together."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.errors import Refusal
from pipeline.executors import _gang
from pipeline.executors._gang import RankFailed, RankLost
from pipeline.executors.ray import lease
from pipeline.executors.ray.cluster import cause
from pipeline.placement import Placement

REMIND_S = 60.0
Place = tuple[str, str, list[str]]
"""node id, its address, the ids of the GPUs that Ray gave"""


class Rank:
    """An actor: one rank."""

    def __init__(self, work: Path) -> None:
        self._lease = lease.hold(work)

    def place(self) -> Place:
        ids = [str(each) for each in ray.get_gpu_ids()]
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), ids

    def free_port(self) -> int:
        return _gang.free_port()

    def run(self, environment: dict[str, str], rank: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        os.environ.update(environment)
        return rank(*args)


def run(rank: Callable[..., Any], args: tuple[Any, ...], placement: Placement, work: Path, note: Callable[[str], None]) -> list[Any]:
    """Run `rank(*args)` on every rank and return what each returned, in rank order.

    Raises RankLost if a rank's process died, Refusal if one refused, else RankFailed with the rank's traceback.
    """
    if placement.gpus not in (0.0, 1.0):
        raise Refusal(f"a rank has one GPU or none, not {placement.gpus:g}; change the profile's trainer")
    bundle = {"CPU": placement.cpus, **({"GPU": placement.gpus} if placement.gpus else {})}
    group = placement_group([bundle] * placement.workers, strategy="PACK")
    actors: list[Any] = []
    try:
        while not group.wait(REMIND_S):
            note(f"waits for {placement.workers} x ({placement.gpus:g} GPUs, {placement.cpus:g} cores) to be free at once")
        for index in range(placement.workers):
            options = ray.remote(Rank).options(
                num_cpus=placement.cpus,
                num_gpus=placement.gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            )
            actors.append(options.remote(work))
        return _collect([actor.run.remote(each, rank, args) for actor, each in zip(actors, _environments(actors), strict=True)])
    finally:
        for actor in actors:
            ray.kill(actor)
        remove_placement_group(group)


def _environments(actors: list[Any]) -> list[dict[str, str]]:
    try:
        places: list[Place] = ray.get([actor.place.remote() for actor in actors])
        port: int = ray.get(actors[0].free_port.remote())
    except RayActorError as error:
        raise RankLost(f"a rank died before it began ({error}); run again") from None
    return environments(places, port)


def environments(places: list[Place], port: int) -> list[dict[str, str]]:
    """The environment of each rank, as `torchrun` would set it.

    Ray shows each actor its own GPU alone, as device 0. DeepSpeed takes LOCAL_RANK both for the device and for
    the rank on its node, so every rank is shown all the gang's GPUs of its node, and uses the LOCAL_RANK-th.
    """
    nodes = [node for node, _, _ in places]
    address = places[0][1] if len(set(nodes)) > 1 else "127.0.0.1"
    made: list[dict[str, str]] = []
    for rank, (node, _, _) in enumerate(places):
        local = nodes[:rank].count(node)
        here = _gang.environment(rank, len(places), local, nodes.count(node), address, port)
        visible = [id for other, _, ids in places if other == node for id in ids]
        if visible:
            here["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
        made.append(here)
    return made


def _collect(refs: list[Any]) -> list[Any]:
    failed: dict[int, RayError] = {}
    results: dict[int, Any] = {}
    pending = list(refs)
    while pending:
        finished, pending = ray.wait(pending, num_returns=1, timeout=_gang.GRACE_S if failed else None)
        if not finished:
            break  # the others wait for a peer that is gone
        for ref in finished:
            try:
                results[refs.index(ref)] = ray.get(ref)
            except RayError as error:
                failed[refs.index(ref)] = error
    if failed:
        raise _blame(failed, len(refs))
    return [results[index] for index in range(len(refs))]


def _blame(failed: dict[int, RayError], ranks: int) -> BaseException:
    """The failure to report: a lost process before a refusal before the first exception, which may just be of a lost peer."""
    for index, error in failed.items():
        if isinstance(error, RayActorError):
            return RankLost(
                f"rank {index} of {ranks} died (often the machine's memory ran out); run again to go on from its last checkpoint"
            )
    for error in failed.values():
        if isinstance(cause(error), Refusal):
            return cause(error)
    index, error = next(iter(failed.items()))
    return RankFailed(f"rank {index} of {ranks} failed:\n{error}")
