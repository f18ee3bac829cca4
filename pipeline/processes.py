"""Processes that must not outlive us: what descends from a process, and how it ends when we do.

`guard` is a second, tiny process that remembers every descendant of this one, and ends them when this one is
gone, however it went: `kill -9` leaves no chance to clean up from inside. This file imports the standard
library alone, because the guard runs it by its path.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOOK_S = 0.5
"""A process that lives shorter than this may go unseen by the guard; its own process group is still ended."""


@dataclass(frozen=True)
class Process:
    """One process; the start time tells it from a later one with the same number."""

    pid: int
    start_ticks: int
    parent: int
    group: int
    state: str

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        now = look(self.pid)
        return now is not None and now.start_ticks == self.start_ticks and now.state not in "ZX"


def look(pid: int) -> Process | None:
    """The process with this number, or None."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The command stands in parentheses and may hold any character, so the fields are counted from its end.
    fields = text.rpartition(")")[2].split()
    return Process(pid, start_ticks=int(fields[19]), parent=int(fields[1]), group=int(fields[2]), state=fields[0])


def descendants(pid: int) -> list[Process]:
    """Children, grandchildren and so on of `pid` that run now; empty where there is no /proc."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        found = look(int(entry.name))
        if found is not None and found.state not in "ZX":
            children.setdefault(found.parent, []).append(found)
    reached: list[Process] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        reached += below
        queue += [each.pid for each in below]
    return reached


def die_with(parent: int) -> None:
    """Have the kernel end this process when `parent` dies. The signal follows the thread that started us, not its process."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # it died before we asked


def end(seen: set[Process]) -> None:
    """Kill those of `seen` that still run, with the process groups that they lead."""
    for each in seen:
        now = look(each.pid)
        ours = now is not None and now.start_ticks == each.start_ticks
        try:
            if each.group == each.pid and (ours or now is None):
                os.killpg(each.pid, signal.SIGKILL)
            elif ours:
                os.kill(each.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


@contextmanager
def guard(*, end_with_block: bool = True) -> Generator[None]:
    """What this process starts while the block runs is ended with the block, or with this process if that comes first.

    Without `end_with_block`, only the latter: for libraries that end their processes in order, as long as they can.
    """
    if sys.platform != "linux":
        yield
        return
    read_end, write_end = os.pipe()
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    # A session of its own, so that Ctrl-C reaches us and not the guard.
    watcher = subprocess.Popen(command, stdin=read_end, stdout=subprocess.PIPE, start_new_session=True)
    os.close(read_end)
    assert watcher.stdout is not None
    watcher.stdout.read(1)  # it knows now what was there before
    try:
        yield
    finally:
        if not end_with_block:
            os.write(write_end, b".")
        os.close(write_end)
        watcher.wait()
        watcher.stdout.close()


def _watch(parent: int) -> None:
    before = {each.pid for each in descendants(parent)}  # the guard itself among them
    os.write(1, b"+")
    seen: set[Process] = set()
    # The pipe's end says that the block ended. It does not tell of a death: whatever was forked may hold it open.
    while not select.select([0], [], [], LOOK_S)[0] and os.getppid() == parent:
        seen.update(descendants(parent))
    if select.select([0], [], [], 0)[0] and os.read(0, 1):
        return  # the block ended in order, and asked for no more
    seen.update(descendants(parent))
    end({each for each in seen if each.pid not in before})


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
