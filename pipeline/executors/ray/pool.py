"""Where a step's parts run under Ray: shards on a pool of warm actors, ranks in a gang of actors.

Ray neither restarts actors nor repeats their calls here: what is lost is repeated by us, shard by shard, because
only we know what is on disk already. No actor outlives the call that made it.
"""

from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from pipeline import shards
from pipeline.errors import Refusal
from pipeline.executors.inline import InlinePool
from pipeline.executors.ray import gang as gangs
from pipeline.executors.ray import lease
from pipeline.executors.ray.cluster import cause
from pipeline.placement import Placement
from pipeline.shards import Shard
from pipeline.tools import Tools

LEASE_S = 60.0
CLOSE_S = 60.0


class StepFailed(Refusal):
    """The same part of a step was lost too often."""


class Worker:
    """An actor: one process with its GPUs and cores, and what `tools` holds warm in it."""

    def __init__(self, tools: Tools, folder: Path) -> None:
        self._tools = tools
        self._lease = lease.hold(folder)

    def ready(self) -> None:
        """Answers once the process is there."""

    def build(self, task: shards.Task, shard: Shard) -> None:
        shards.build(task, shard, self._tools)

    def close(self) -> None:
        self._tools.close()


class RayPool:
    """The pool of one step; it lives in the step's own process. `alone`: that process does the work itself."""

    def __init__(self, attempts: int, note: Callable[[str], None], alone: bool) -> None:
        self._attempts, self._note, self._alone = attempts, note, alone

    def map(self, task: shards.Task, todo: list[Shard], tools: Tools, placement: Placement, done: Callable[[], None]) -> None:
        """Give each free worker the next shard. Raises StepFailed if one shard loses its worker `attempts` times."""
        if self._alone:
            return InlinePool().map(task, todo, tools, placement, done)
        lease.wait(task.folder / "writers", LEASE_S)
        crew = _Crew(tools, task, placement)
        queue, lost = deque(todo), Counter[Shard | None]()
        try:
            for _ in range(min(placement.workers, len(todo))):
                crew.hire()
            # A worker gets its shard only when it is up, so that one that waits for cores holds nothing back.
            while queue or crew.shards():
                worker, shard, error = crew.next()
                if error is None:
                    if shard is not None:
                        done()
                    if queue:
                        crew.give(worker, queue.popleft())
                    continue
                lost[shard] += 1
                self._judge(error, shard, lost[shard], tools.address)
                if shard is not None:
                    queue.appendleft(shard)
                crew.dismiss(worker)
                crew.hire()
            crew.close()
        finally:
            crew.kill()

    def _judge(self, error: RayError, shard: Shard | None, times: int, address: str) -> None:
        """Raise what a second attempt would not mend; note the rest."""
        what = f"rows {shard.start} to {shard.stop - 1}" if shard else "no row yet"
        if isinstance(error, RayActorError):
            if times >= self._attempts:
                raise StepFailed(
                    f"{address}: {times} workers died, one after the other, over {what} (often the memory of the machine or GPU runs out);"
                    f" give each less to do at once in the profile, then run again: finished shards are kept. Ray says: {_brief(error)}"
                ) from None
            self._note(f"a worker died over {what}; another one takes over ({_brief(error)})")
            return
        # An engine that died and a GPU that ran full look like any exception; a fresh process gets one chance.
        found = cause(error)
        if isinstance(found, Refusal) or times > 1:
            raise found from error
        self._note(f"{type(found).__name__} over {what}; another worker tries it once more ({found})")

    def gang(self, rank: Callable[..., Any], args: tuple[Any, ...], placement: Placement, work: Path) -> list[Any]:
        """Run the ranks once; whoever builds the step repeats it if one is lost."""
        lease.wait(work / "writers", LEASE_S)
        return gangs.run(rank, args, placement, work, self._note)


class _Crew:
    """The actors of one map, and what each is doing. `None` in place of a shard: it is starting."""

    def __init__(self, tools: Tools, task: shards.Task, placement: Placement) -> None:
        self._tools, self._task = tools, task
        self._actor: Any = ray.remote(Worker).options(
            num_cpus=placement.cpus, num_gpus=placement.gpus, max_restarts=0, max_task_retries=0, name=None
        )
        self._all: list[Any] = []
        self._busy: dict[Any, tuple[Any, Shard | None]] = {}

    def hire(self) -> None:
        worker = self._actor.remote(self._tools, self._task.folder)
        self._all.append(worker)
        self._busy[worker.ready.remote()] = (worker, None)

    def give(self, worker: Any, shard: Shard) -> None:
        self._busy[worker.build.remote(self._task, shard)] = (worker, shard)

    def shards(self) -> list[Shard]:
        return [shard for _, shard in self._busy.values() if shard is not None]

    def next(self) -> tuple[Any, Shard | None, RayError | None]:
        """Wait for whoever is done first: who, with what, and what went wrong."""
        [ref], _ = ray.wait(list(self._busy), num_returns=1)
        worker, shard = self._busy.pop(ref)
        try:
            ray.get(ref)
        except RayError as error:
            return worker, shard, error
        return worker, shard, None

    def dismiss(self, worker: Any) -> None:
        self._all.remove(worker)
        ray.kill(worker)

    def close(self) -> None:
        """Let the workers end in order, so that engines free what they hold."""
        starting = {worker for worker, _ in self._busy.values()}
        try:
            ray.get([worker.close.remote() for worker in self._all if worker not in starting], timeout=CLOSE_S)
        except (GetTimeoutError, RayActorError):
            return  # every shard is on disk; what does not end by itself is ended next

    def kill(self) -> None:
        for worker in self._all:
            ray.kill(worker)


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300]
