"""Runs steps as Ray tasks, on this machine's cores or on a cluster: independent branches at once, workers replaced when they die.

Ray gets the graph and orders it; rows travel as paths below the run, which every node must see. A step's task
only coordinates: it takes no core, and its workers are placed by the profile.
"""

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.build import Context, build
from pipeline.errors import Refusal
from pipeline.executors._gang import RankLost
from pipeline.executors.ray import lease
from pipeline.executors.ray.config import Config
from pipeline.placement import Placement, placement
from pipeline.plan import Step

VERSION = 1
LOOK_S = 0.3
NOTES = "progress.json"


def execute(config: Config, steps: list[Step], context: Context) -> None:
    """Build `steps`, each as soon as what it reads is built. The first failure ends the run; what is on disk is kept."""
    from pipeline.executors.ray import cluster

    if not steps:
        return
    with cluster.connected(config):
        cluster.check_room(steps, context.profile)
        _run(config, steps, context)


def _run(config: Config, steps: list[Step], context: Context) -> None:
    import ray
    from ray.exceptions import RayError

    from pipeline.executors.ray.pool import StepFailed

    task = ray.remote(_step)
    # The caller's callbacks stay here: they draw on a terminal that workers do not have.
    # `absolute` and not `resolve`: the runs beside this one are where its name lies.
    bare = Context(run=context.run.absolute(), profile=context.profile, again=context.again)
    refs: dict[str, Any] = {}
    for step in steps:
        _notes(step, context.run).unlink(missing_ok=True)
        reads = [refs[address] for address in step.reads if address in refs]
        own = _own(step, context)
        room = own or Placement(cpus=0.0)
        # A coordinator is not repeated: its workers may still write.
        repeats = config.attempts - 1 if own else 0
        options = task.options(name=step.address, num_cpus=room.cpus, num_gpus=room.gpus, max_retries=repeats)
        refs[step.address] = options.remote(step, bare, config.attempts, own is not None, *reads)
    waiting = {step.address: step for step in steps}
    teller = _Teller(context)
    while waiting:
        done, _ = ray.wait([refs[address] for address in waiting], num_returns=1, timeout=LOOK_S)
        for step in waiting.values():
            teller.look(step)
        for step in [step for step in waiting.values() if refs[step.address] in done]:
            try:
                notes, linked_from = ray.get(refs[step.address])
            except RayError as error:
                _fail(step, error, StepFailed)
            del waiting[step.address]
            teller.finished(step, notes, linked_from)


def _fail(step: Step, error: Any, died: type[Exception]) -> NoReturn:
    from pipeline.executors.ray.cluster import cause

    found = cause(error)
    if isinstance(found, Refusal):
        raise found from None
    if found is error:
        raise died(f"{step.address}: its process died, or the one of a step that it reads; run again, finished parts are kept. {error}")
    raise error


def _own(step: Step, context: Context) -> Placement | None:
    """What the step's own task takes, if it does the work itself; None if it only coordinates workers.

    A step of one worker without a model is not worth another process. A trainer says so with `IN_PROCESS`.
    """
    profile = context.profile.at(step.node)
    asked = placement(profile, step.uses)
    if not step.uses and asked.workers == 1:
        return asked
    return asked if "trainer" in step.uses and getattr(profile.trainer.module, "IN_PROCESS", False) else None


def _step(step: Step, context: Context, attempts: int, alone: bool, *reads: object) -> tuple[list[str], str | None]:
    """One step, in a process of the cluster; returns its notes, and whom it was linked from. `reads` only orders the steps."""
    from pipeline.executors.ray import pool as pools

    folder = artifact.draft_folder(step.folder(context.run), step.key)
    folder.mkdir(parents=True, exist_ok=True)
    lease.wait(folder / "lock", pools.LEASE_S)
    notes = _Notes(folder / NOTES)
    pool = pools.RayPool(attempts, notes.note, alone)
    for times in range(1, attempts + 1):
        try:
            made = build(step, replace(context, report=notes.report), pool)
            return notes.texts, made.linked_from
        except Refusal as error:
            if not isinstance(error.__cause__, RankLost) or times == attempts:
                raise
            # The whole step again and not just its gang: the trainer looks for its newest checkpoint first.
            notes.note(f"{str(error.__cause__).partition(';')[0]}; all ranks start again ({times} of {attempts - 1})")
    raise AssertionError("unreachable: the last attempt returns or raises")


class _Notes:
    """What a step's task tells the driver: a small file in its draft, replaced as a whole, never half there."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._now: dict[str, Any] = {"done": 0, "total": 0, "notes": []}
        # The driver removed it before it asked for this step, so an earlier attempt left it.
        again = path.exists()
        self._write()
        if again:
            self.note("its process died; it goes on in another one")

    def report(self, address: str, done: int, total: int) -> None:
        self._now.update(done=done, total=total)
        self._write()

    @property
    def texts(self) -> list[str]:
        return self._now["notes"]

    def note(self, text: str) -> None:
        self.texts.append(text)
        self._write()

    def _write(self) -> None:
        with self._lock:  # a trainer reports from a thread of its own
            self._replace()

    def _replace(self) -> None:
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._now))
        part.replace(self._path)


def _notes(step: Step, run: Path) -> Path:
    return artifact.draft_folder(step.folder(run), step.key) / NOTES


class _Teller:
    """Turns the notes of running steps into the caller's callbacks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._shown: dict[str, dict[str, Any]] = {}

    def look(self, step: Step) -> None:
        """Tell what is new of a step."""
        try:
            now: dict[str, Any] = json.loads(_notes(step, self._context.run).read_text())
        except FileNotFoundError:
            return
        self._begin(step)
        before = self._shown[step.address]
        self._warn(step, now["notes"])
        if (now["done"], now["total"]) != (before["done"], before["total"]):
            self._context.report(step.address, now["done"], now["total"])
        self._shown[step.address] = now

    def finished(self, step: Step, notes: list[str], linked_from: str | None) -> None:
        """Tell that a step is there. Its last notes went with its draft, so they come with its result."""
        self._begin(step)
        self._warn(step, notes)
        made: Artifact | None = artifact.read(step.folder(self._context.run))
        assert made is not None, f"{step.address} was built and is not there: does every node see {self._context.run}?"
        self._context.finished(replace(made, linked_from=linked_from), step.address)

    def _warn(self, step: Step, notes: list[str]) -> None:
        for note in notes[len(self._shown[step.address]["notes"]) :]:
            logging.getLogger(f"rematch.{step.address.replace('/', '.')}").warning(note)

    def _begin(self, step: Step) -> None:
        if step.address not in self._shown:
            self._shown[step.address] = {"done": 0, "total": 0, "notes": []}
            self._context.started(step.address)
