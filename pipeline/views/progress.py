"""What a person sees while a run is built: a bar for each running step, a line for each finished one, a table a round.

Where there is no terminal, the same lines come plain and without bars; a step that takes long says how far it
is twice a minute. Callbacks may come from several threads.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline import run as runner
from pipeline.artifact import Artifact
from pipeline.build import Context
from pipeline.plan import Step, plan
from pipeline.recipe import sections
from pipeline.request import Asked
from pipeline.run import affected
from pipeline.views import facts, rounds, screen

STILL_S = 30.0
"""How often a step that has no bar says how far it is."""


class Watch:
    """Turns the callbacks of a run into lines and bars."""

    def __init__(self, asked: Asked, steps: list[Step], again: list[str], out: Console, only: str | None) -> None:
        self._asked, self._out = asked, out
        self._steps = {step.address: step for step in steps}
        self._folders = [name for name, _, _ in sections(asked.recipe)]
        self._lock = threading.RLock()
        self._entries = {each["address"]: each for each in facts.entries(steps, asked)}
        self._entries |= {step.address: facts.entry(step, None) for step in steps if step.address in again}
        self._said: dict[str, float] = {}
        self._bars: dict[str, TaskID] = {}
        self._address_width = max((len(address) for address in self._steps), default=0)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        todo = sum(not each["done"] for address, each in self._entries.items() if only in (None, address))
        self._all = self.progress.add_task("steps".ljust(self._address_width), total=todo) if todo else None

    def started(self, address: str) -> None:
        with self._lock:
            self._said[address] = time.monotonic()
            if address not in self._bars:
                self._bars[address] = self.progress.add_task(address.ljust(self._address_width), total=None)

    def report(self, address: str, done: int, total: int) -> None:
        with self._lock:
            if address not in self._bars:
                self.started(address)
            self.progress.update(self._bars[address], completed=done, total=total or None)
            if not self._out.is_terminal and time.monotonic() - self._said[address] > STILL_S:
                self._said[address] = time.monotonic()
                self._out.print(Text(f"{address.ljust(self._address_width)}  {done}/{total}"))

    def finished(self, made: Artifact, address: str) -> None:
        with self._lock:
            if address in self._bars:
                self.progress.remove_task(self._bars.pop(address))
            if self._all is not None:
                self.progress.advance(self._all)
            each = self._entries[address] = facts.entry(self._steps[address], made)
            linked = made.linked_from is not None
            took = ("linked" if linked else screen.seconds(each["seconds"])).rjust(12)
            line = facts.line(each["makes"], each["facts"])
            about = Text(f"from {screen.safe(made.linked_from)}: {line}" if linked else line, style="dim")
            if self._out.is_terminal:
                about.truncate(max(self._out.width - self._address_width - 14, 20), overflow="ellipsis")
            self._out.print(Text.assemble((address.ljust(self._address_width), "bold"), took, "  ", about), soft_wrap=True)
            self._round_ended(address.split("/")[0])

    def _round_ended(self, folder: str) -> None:
        steps = [each for address, each in self._entries.items() if address.startswith(f"{folder}/")]
        if folder == "start" or folder == self._folders[-1] or not all(each["done"] for each in steps):
            return
        shown = self._folders[: self._folders.index(folder) + 1]
        self._out.print(Text(), rounds.summary([self._round(name) for name in shown], self._out.width), Text(), sep="\n")

    def _round(self, name: str) -> dict[str, Any]:
        steps = [each for address, each in self._entries.items() if address.startswith(f"{name}/")]
        return {"name": name, "metrics": facts.metrics(steps), "steps": steps}


class _Lines(logging.Handler):
    """Log records as lines that do not tear the bars."""

    def __init__(self, out: Console, level: int) -> None:
        super().__init__(level)
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        # The logger of a step is named after its address: `rematch.round-01.pairs`.
        address, message = record.name.removeprefix("rematch.").replace(".", "/", 1), record.getMessage()
        said = message if address in message or "/" not in address else f"{address}: {message}"
        self._out.print(Text(screen.safe(said), style="yellow"), soft_wrap=True)


@dataclass
class Did:
    """What became of a run's steps, filled in as they end, so that it is known of a run that fails too."""

    built: list[str] = field(default_factory=list[str])
    linked: dict[str, str] = field(default_factory=dict[str, str])
    """Address -> the run that it was linked from."""


def build(asked: Asked, out: Console, listen: Callable[[], None], did: Did, start_at: str | None = None) -> None:
    """Run what was asked for, shown on `out`.

    `listen` is called as each step begins: by then the executor's libraries are up, with signal handlers of their own.
    """
    steps = plan(asked.recipe, asked.profile)
    with watching(asked, steps, affected(steps, start_at) if start_at else [], out, listen, did) as context:
        runner.run(asked.recipe, asked.profile, asked.folder, start_at=start_at, context=context)


def build_step(asked: Asked, address: str, out: Console, listen: Callable[[], None], did: Did) -> None:
    """Build one step, shown on `out`."""
    with watching(asked, plan(asked.recipe, asked.profile), [], out, listen, did, only=address) as context:
        runner.build_step(asked.recipe, asked.profile, asked.folder, address, context=context)


@contextmanager
def watching(
    asked: Asked, steps: list[Step], again: list[str], out: Console, listen: Callable[[], None], did: Did, only: str | None = None
) -> Generator[Context]:
    """The context that a run reports to, shown on `out` until the block ends. Stages' log lines go there too.

    `again` are the addresses that the run retires before it starts; `only` is the one that is built, if it is one.
    """
    watch = Watch(asked, steps, again, out, only)

    def started(address: str) -> None:
        listen()
        watch.started(address)

    def finished(made: Artifact, address: str) -> None:
        watch.finished(made, address)
        if made.linked_from is None:
            did.built.append(address)
        else:
            did.linked[address] = made.linked_from

    handler = _Lines(out, logging.WARNING)
    log = logging.getLogger("rematch")
    log.addHandler(handler)
    try:
        with watch.progress:
            yield Context(run=asked.folder, profile=asked.profile, started=started, report=watch.report, finished=finished)
    finally:
        log.removeHandler(handler)
