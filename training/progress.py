"""How a training tells, while it runs, how far it is and what its steps gave: in process, or from a gang's first rank by a file.

A rank has no tools; it appends to `job.work / FILE`, and the process that started the gang reads what is new.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Report = Callable[[int, int, dict[str, Any]], None]
"""Steps done, steps in all, and the metrics of the last one; empty before the first."""
FILE = "progress.jsonl"
LOOK_S = 0.5


def to(tools: Any) -> Report:
    """Reports to the step's tools: a bar's progress, and an event for each step."""

    def report(done: int, total: int, metrics: dict[str, Any]) -> None:
        tools.report(tools.address, done, total)
        if metrics:
            tools.event("trained", of=total, **metrics)

    return report


def written(work: Path) -> Report:
    """Reports into a file, for the one rank that writes it."""

    def report(done: int, total: int, metrics: dict[str, Any]) -> None:
        with (work / FILE).open("a") as file:
            file.write(json.dumps([done, total, metrics]) + "\n")

    return report


@contextmanager
def watched(work: Path, report: Report) -> Iterator[None]:
    """Pass on what a rank writes, for as long as the block lasts and to its last line."""
    path, ended = work / FILE, threading.Event()
    path.unlink(missing_ok=True)

    def look(at: int) -> int:
        if not path.exists():
            return at
        with path.open("rb") as file:
            file.seek(at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.splitlines():
            report(*json.loads(line))
        return at + len(whole)

    def watch() -> None:
        at = 0
        while not ended.wait(LOOK_S):
            at = look(at)
        look(at)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
