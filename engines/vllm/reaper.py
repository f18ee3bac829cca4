"""Ends an engine's processes when the process that owns them was killed and could not.

Started beside the engine as a process of its own, in a session of its own. It remembers which processes its owner
starts from then on (pid and start time, so that a reused pid is left alone) and, when the owner is gone, kills those
that are left. Runs as a plain file, with nothing but the standard library.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PERIOD_S = 0.25
Process = tuple[int, str]
"""pid and start time"""


def watch(owner: int) -> "subprocess.Popen[bytes]":
    """Start a reaper for what `owner` starts from now on; terminate it once the engine has been closed in order."""
    command = [sys.executable, "-I", str(Path(__file__).resolve()), str(owner)]
    started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert started.stdout is not None
    started.stdout.read(1)  # it has seen what was there before
    started.stdout.close()
    return started


def _table() -> dict[int, tuple[int, str]]:
    """pid -> (parent, start time) of every process."""
    found: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            if fields[0] != "Z":
                found[int(entry.name)] = (int(fields[1]), fields[19])
    return found


def descendants(roots: set[int], table: dict[int, tuple[int, str]]) -> set[Process]:
    """All processes below `roots`."""
    below: set[int] = set(roots)
    while True:
        more = {pid for pid, (parent, _) in table.items() if parent in below} - below
        if not more:
            return {(pid, table[pid][1]) for pid in below - roots}
        below |= more


def main(owner: int) -> None:
    handle = os.pidfd_open(owner)
    known_before = descendants({owner}, _table())
    os.write(1, b"+")
    children: set[Process] = set()
    while not select.select([handle], [], [], PERIOD_S)[0]:
        children |= descendants({owner}, _table()) - known_before
    children = {child for child in children if child[0] != os.getpid()}
    for _ in range(20):
        table = _table()
        left = {pid for pid, started in children if pid in table and table[pid][1] == started}
        if not left:
            return
        children |= descendants(left, table)
        for pid, _ in children & {(pid, started) for pid, (_, started) in table.items()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
