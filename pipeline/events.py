"""What happens in a run, while it happens: `events.jsonl`, one JSON object a line, appended, by whoever is at work.

For people and viewers. No artifact, key or state depends on it, so a run goes on if it cannot be written, after one warning.
A line is written with one call, and what a kill or a full disk left of one is passed over by readers. docs/events.md
says what each kind holds.
"""

import json
import logging
import math
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from pipeline.artifact import Artifact
from pipeline.measured import numbers

FILE = "events.jsonl"
KINDS = ("run", "started", "progress", "trained", "finished", "linked", "dropped", "retired", "failed", "ended")
"""What rematch itself writes; a plugin may tell of other things with `tools.event`."""
EVERY_S = 1.0
"""How often the progress of a step is written down."""

_told_of: set[Path] = set()
"""Files that could not be written, and were warned of."""


def append(run: Path, kind: str, /, **told: Any) -> None:
    """Add one line. If it cannot be written, this process says so once, and the run goes on."""
    path = run / FILE
    line = json.dumps({"time": round(time.time(), 3), "kind": kind} | _finite(told), ensure_ascii=False).encode() + b"\n"
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, b"\n" + line if torn else line)
        finally:
            os.close(handle)
    except OSError as error:
        if path not in _told_of:
            _told_of.add(path)
            log = logging.getLogger("rematch.events")
            log.warning(f"{path}: cannot be written ({error.strerror}); the run goes on, and what happens in it is not written down")


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON has not."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in cast(dict[str, Any], value).items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(run: Path) -> Iterator[dict[str, Any]]:
    """The events of a run in their order; none if it has no file. Lines that are no whole event are passed over."""
    try:
        with (run / FILE).open("rb") as file:
            for line in file:
                try:
                    event: Any = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and "kind" in event and "time" in event:
                    yield cast(dict[str, Any], event)
    except FileNotFoundError:
        return


def latest(run: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The last event of each kind of each step: address -> kind -> event."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for event in read(run):
        if isinstance(event.get("address"), str):
            found.setdefault(event["address"], {})[event["kind"]] = event
    return found


class Log:
    """Writes down one command over a run: that it began, what its callbacks tell, and how it ended."""

    def __init__(self, run: Path, **told: Any) -> None:
        self._run, self._told = run, told
        self._said: dict[str, float] = {}
        self.built: list[str] = []

    def __enter__(self) -> "Log":
        who = {"command": shlex.join(sys.argv), "pid": os.getpid(), "host": socket.gethostname()}
        append(self._run, "run", **self._told, **who)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        why = None if kind is None else "interrupted" if issubclass(kind, KeyboardInterrupt) else str(error) or kind.__name__
        append(self._run, "ended", built=len(self.built), error=why)

    def started(self, address: str) -> None:
        append(self._run, "started", address=address)

    def report(self, address: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._said.get(address, -EVERY_S) >= EVERY_S:
            self._said[address] = now
            append(self._run, "progress", address=address, done=done, total=total)

    def finished(self, made: Artifact, address: str) -> None:
        about = {"address": address, "digest": made.manifest.digest}
        if made.linked_from is not None:
            append(self._run, "linked", **about, run=made.linked_from)
            return
        self.built.append(address)
        facts = dict(numbers(made.manifest.facts))
        append(self._run, "finished", **about, seconds=made.manifest.provenance.get("seconds"), facts=facts)
