"""What a stage may ask for while it runs: its seed, its models, an open engine, a map over shards, a gang of ranks.

A stage never learns whether it runs inline or on a cluster. `map` and `gang` are its only parallel constructs:
a loop or local processes inline, actors under Ray.
"""

import logging
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import pyarrow as pa

from pipeline import model, rows, shards
from pipeline.artifact import Artifact, Facts
from pipeline.profile import Profile

T = TypeVar("T")
Work = Callable[["pa.Table", "Tools"], tuple["pa.Table", Facts]]
"""A part of a table to a part of another one, with the facts of that part; pickled, so a module-level function or a partial of one."""
Progress = Callable[[str, int, int], None]
"""address, done, total"""


@dataclass(frozen=True)
class Placement:
    """What one step asks of the machine: `workers` processes, each with this many GPUs and CPU cores."""

    workers: int = 1
    gpus: float = 0.0
    cpus: float = 1.0


class Pool(Protocol):
    """Where an executor runs the parts of a step."""

    def map(self, task: shards.Task, todo: list[shards.Shard], tools: "Tools", placement: Placement, done: Callable[[], None]) -> None:
        """Run `task` on each shard, calling `done` after each; every shard is on disk when this returns."""
        ...

    def gang(self, rank: Callable[..., Any], args: tuple[Any, ...], placement: Placement, work: Path) -> list[Any]:
        """Run `rank(*args)` in `placement.workers` processes at once and return what each returned, in rank order.

        Each process has RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its
        environment. If one dies, all are ended and this raises; no process is left behind.
        """
        ...


@dataclass(frozen=True)
class Tools:
    address: str
    drawn_from: int | None
    """`seed`; None for a stage that says `SEEDED = False`."""
    round: int | None
    """From 1; None for the start."""
    inputs: dict[str, tuple[Artifact, ...]]
    """By slot: the name of a reference field, `judge.model` for one inside a choice."""
    work: Path
    """Survives a crash of this step, and is gone once the step is done."""
    profile: Profile
    """What applies to this node, its overrides merged in."""
    pool: Pool | None = None
    report: Progress = lambda address, done, total: None
    tell: Callable[..., None] | None = None
    """Where `event` goes: nowhere if there is no run."""
    _warm: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any])
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def seed(self) -> int:
        """A hash of the recipe's seed and this step's address. None is given to a stage that says it draws nothing."""
        if self.drawn_from is None:
            raise RuntimeError(f"{self.address}: its stage says SEEDED = False, so no seed is in its key, and it may ask for none")
        return self.drawn_from

    def event(self, kind: str, /, **told: Any) -> None:
        """Add a line to the run's `events.jsonl`: for whoever watches, and no part of what is made."""
        if self.tell is not None:
            self.tell(kind, address=self.address, **told)

    @property
    def log(self) -> logging.Logger:
        return logging.getLogger(f"rematch.{self.address.replace('/', '.')}")

    def model(self, slot: str) -> Path:
        """The Hugging Face folder of the model that `slot` names."""
        return model.folder(self.inputs[slot][0])

    def engine(self, slot: str = "model") -> Any:
        """The open engine (engines.Engine) over the model of `slot`, kept warm in this process until the step ends."""
        choice = self.profile.engine
        asked = self.inputs[slot][0].path
        behind = getattr(choice.module, "ENDPOINTS", False) and model.endpoint(asked) is not None
        return self.warm(choice.module.open, choice.config, asked if behind else self.model(slot), seed=self.seed)

    def warm(self, opens: Callable[..., AbstractContextManager[T]], *args: Any, **kwargs: Any) -> T:
        """Enter `opens(*args, **kwargs)` once in this process and hand out the same thing until the step ends."""
        key = (opens, repr(args), repr(sorted(kwargs.items())))
        if key not in self._warm:
            self._warm[key] = self._stack.enter_context(opens(*args, **kwargs))
        return cast(T, self._warm[key])

    def map(self, work: Work, source: Artifact, table: str, out: Path, uses: str | None = None) -> list[Facts]:
        """Run `work` over the shards of `source` and write the joined rows of `table` below `out`.

        Shards are durable one by one, so that a restart does only the missing ones. The joined files and the
        returned facts (one per shard, in row order) do not depend on how the rows were split.
        A step maps once: its shards have one place in its draft.
        `uses` is "engine", "forward", "trainer" or None: whose placement in the profile applies.
        """
        task = shards.Task(work, source.path, table, self.work / "shards")
        plan = shards.split(task.folder, rows.count(source.path), self.profile.rows_per_shard)
        todo = [shard for shard in plan if not shards.valid(task.folder, shard)]
        finished = len(plan) - len(todo)

        def done() -> None:
            nonlocal finished
            finished += 1
            self.report(self.address, finished, len(plan))

        self.report(self.address, finished, len(plan))
        if todo:
            assert self.pool is not None, "a worker has no pool: map inside map is not a thing"
            self.pool.map(task, todo, self.for_workers(), self.placement(uses), done)
        return shards.join(task.folder, plan, out, table)

    def gang(self, rank: Callable[..., Any], *args: Any, placement: Placement) -> list[Any]:
        """Run `rank(*args)` as `placement.workers` communicating processes (see Pool.gang)."""
        assert self.pool is not None, "a worker has no pool"
        return self.pool.gang(rank, args, placement, self.work)

    def placement(self, uses: str | None) -> Placement:
        """What the profile gives to each worker of this step."""
        if uses == "engine":
            return self.profile.engine.module.placement(self.profile.engine.config)
        if uses == "trainer":
            return self.profile.trainer.module.placement(self.profile.trainer.config)
        if uses == "forward":
            forward = self.profile.forward
            return Placement(forward.replicas, forward.gpu_fraction, forward.cpus)
        return Placement(self.profile.workers)

    def for_workers(self) -> "Tools":
        """The same tools as a worker gets them: picklable, with nothing warm and no pool."""
        return replace(self, pool=None, report=_silent, _warm={}, _stack=ExitStack())

    def close(self) -> None:
        """Release everything warm."""
        self._warm.clear()
        self._stack.close()


def _silent(address: str, done: int, total: int) -> None:
    pass
