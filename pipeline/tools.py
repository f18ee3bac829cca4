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
from pipeline.model import Model
from pipeline.placement import NOTHING, Need, Placement, placement
from pipeline.profile import Profile

T = TypeVar("T")
Work = Callable[["pa.Table", "Tools"], tuple["pa.Table", Facts]]
"""A part of a table to a part of another one, with the facts of that part; pickled, so a module-level function or a partial of one."""
Progress = Callable[[str, int, int], None]
"""address, done, total"""


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
    """By slot: the name of a reference field; empty where it names nothing."""
    out: Path
    """Becomes the artifact: all that a stage makes goes below it."""
    work: Path
    """Survives a crash of this step, and is gone once the step is done."""
    profile: Profile
    """What applies to this node, its overrides merged in."""
    uses: frozenset[Need] = NOTHING
    """What the step runs, and so what each of its workers takes."""
    pool: Pool | None = None
    report: Progress = lambda address, done, total: None
    tell: Callable[..., None] | None = None
    """Where `event` goes: nowhere if there is no run."""
    within: str = ""
    """Which plugin of the step has these tools, such as `judge.judges.0`; empty for the stage itself."""
    shard: Path | None = None
    """The folder of the shard at hand, whether or not it is there; None outside a map."""
    leans_on: dict[str, str] = field(default_factory=dict[str, str])
    """Address -> digest of what the artifact in the making leans on: see `lean_on`."""
    _mapped: set[Path] = field(default_factory=set[Path])
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

    def input(self, slot: str) -> Artifact:
        """The one artifact that the field `slot` names; the first, if it names several."""
        return self.inputs[slot][0]

    def of(self, field: str) -> "Tools":
        """The tools as the plugin that is picked in `field` sees them: its own reference fields are its slots.

        `judge` for a field of one plugin, `judges.0` for the first of several. Whatever is warm stays shared.
        """
        prefix = f"{field}."
        inputs = {slot.removeprefix(prefix): read for slot, read in self.inputs.items() if slot.startswith(prefix)}
        return replace(self, inputs=inputs, within=f"{self.within}.{field}" if self.within else field)

    def lean_on(self, slot: str) -> None:
        """Say that what this step makes cannot be read without the files of its inputs in `slot`, and of what those lean on.

        Such inputs are never dropped before it, go to the attic with it, and are checked whenever it is read.
        """
        for each in self.inputs[slot]:
            self.leans_on.update({each.address: each.manifest.digest, **each.manifest.leans_on})

    def model(self, slot: str) -> Model:
        """The model that `slot` names: its folder, what that leans on, and its kind."""
        return model.of(self.input(slot))

    def engine(self, slot: str = "model") -> Any:
        """The open engine (engines.Engine) over the model of `slot`, kept warm in this process until the step ends."""
        choice = self.profile.engine
        behind = model.endpoint(self.input(slot).path) if getattr(choice.module, "ENDPOINTS", False) else None
        return self.warm(choice.module.open, choice.config, behind or self.model(slot), seed=self.seed)

    def warm(self, opens: Callable[..., AbstractContextManager[T]], *args: Any, **kwargs: Any) -> T:
        """Enter `opens(*args, **kwargs)` once in this process and hand out the same thing until the step ends."""
        key = (opens, repr(args), repr(sorted(kwargs.items())))
        if key not in self._warm:
            self._warm[key] = self._stack.enter_context(opens(*args, **kwargs))
        return cast(T, self._warm[key])

    def map(self, work: Work, source: Artifact, table: str | pa.Schema, out: Path | None = None) -> list[Facts]:
        """Run `work` over the shards of `source` and write the joined rows of `table` below `out` (None: `tools.out`).

        Shards are durable one by one, so that a restart does only the missing ones. The joined files and the
        returned facts (one per shard, in row order) do not depend on how the rows were split. A step may map as
        often as it likes, each time to another `out`: shards are kept apart by it.
        """
        out = out or self.out
        if out in self._mapped:
            raise ValueError(f"{self.address}: maps to {out} twice; give each map a folder of its own")
        self._mapped.add(out)
        out.mkdir(parents=True, exist_ok=True)
        task = shards.Task(work, source.path, rows.schema(table), self.work / "shards" / self._named(out))
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
            self.pool.map(task, todo, self.for_workers(), placement(self.profile, self.uses), done)
        return shards.join(task, plan, out)

    def _named(self, out: Path) -> str:
        """A folder name for what goes to `out`: its path below the step's folders."""
        for home in (self.out, self.work):
            if out.is_relative_to(home):
                return "-".join((home.name, *out.relative_to(home).parts))
        raise ValueError(f"{self.address}: maps to {out}, which is below neither `tools.out` nor `tools.work`")

    @property
    def shard_work(self) -> Path:
        """A folder of the shard at hand: what is in it survives a crash, and is gone once the shard is sealed."""
        assert self.shard is not None, "only the function that is mapped over shards has a shard"
        self.shard.mkdir(exist_ok=True)
        return self.shard

    def gang(self, rank: Callable[..., Any], *args: Any, placement: Placement) -> list[Any]:
        """Run `rank(*args)` as `placement.workers` communicating processes (see Pool.gang)."""
        assert self.pool is not None, "a worker has no pool"
        return self.pool.gang(rank, args, placement, self.work)

    def for_workers(self) -> "Tools":
        """The same tools as a worker gets them: picklable, with nothing warm and no pool."""
        return replace(self, pool=None, report=_silent, _mapped=set(), _warm={}, _stack=ExitStack())

    def close(self) -> None:
        """Release everything warm."""
        self._warm.clear()
        self._stack.close()


def _silent(address: str, done: int, total: int) -> None:
    pass
