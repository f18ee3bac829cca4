"""A gang of local processes that run one function together, such as the ranks of a training.

Each is a fresh interpreter and not a fork, because torch does not survive one. If a rank fails, all are
ended; if this process dies, the kernel ends them. What they print goes to files in the draft's work folder.
"""

import contextlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline import processes, rooms
from pipeline.errors import Refusal
from pipeline.placement import Placement

LOOK_S = 0.05
GRACE_S = 5.0
"""After a first failure the others have this long to end, because the rank that complains first of a lost peer is not the one to blame."""
TAIL_LINES = 30


class RankFailed(RuntimeError):
    """A rank's function raised: a bug, with the traceback of that rank in the message."""


class RankLost(Refusal):
    """A rank's process was ended from outside; a second attempt may do better."""


def run(rank: Callable[..., Any], args: tuple[Any, ...], placement: Placement, work: Path) -> list[Any]:
    """Run `rank(*args)` in `placement.workers` processes and return what each returned, in rank order.

    `rank`, `args` and the results are pickled. Raises RankLost if a process was killed, Refusal if one refused,
    else RankFailed with the rank's traceback.
    """
    folder = work / "gang"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "call.pickle").write_bytes(pickle.dumps((rank, args)))
    port = free_port()
    ranks: list[subprocess.Popen[bytes]] = []
    with processes.guard():
        try:
            for index in range(placement.workers):
                ranks.append(_start(folder, environment(index, placement.workers, index, placement.workers, "127.0.0.1", port), index))
            _wait(ranks)
        finally:
            for process in ranks:
                _end(process)
    codes = [process.returncode for process in ranks]
    if any(codes):
        raise _failure(folder, codes)
    return [pickle.loads(_file(folder, index, "result").read_bytes()) for index in range(len(ranks))]


def environment(rank: int, world: int, local_rank: int, local_world: int, address: str, port: int) -> dict[str, str]:
    """What torch.distributed and DeepSpeed read to find each other."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_world),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """A TCP port that was free a moment ago on this machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _start(folder: Path, extra: dict[str, str], index: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", __name__, str(folder), str(index), str(os.getpid())]
    with _file(folder, index, "log").open("wb") as log:
        return subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": rooms.path(), **extra},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what a rank starts, such as a compiler, is ended with it
        )


def _wait(ranks: list[subprocess.Popen[bytes]]) -> None:
    deadline = float("inf")
    while time.monotonic() < deadline:
        codes = [process.poll() for process in ranks]
        if None not in codes:
            return
        if deadline == float("inf") and any(codes):
            deadline = time.monotonic() + GRACE_S
        time.sleep(LOOK_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    ended_by_itself = process.poll() is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not ended_by_itself:
        process.returncode = 0  # we did that: it is not to blame


def _failure(folder: Path, codes: list[int]) -> Exception:
    blamed = [(code, index) for index, code in enumerate(codes) if code]
    for code, index in blamed:
        if code < 0:
            name = signal.Signals(-code).name
            why = " (often the machine's memory ran out)" if name == "SIGKILL" else ""
            return RankLost(
                f"rank {index} of {len(codes)} was ended by {name}{why}; run again to go on from its last checkpoint."
                f" Its log, {_file(folder, index, 'log')}, ends:\n{_tail(folder, index)}"
            )
    for _, index in blamed:
        refusal = _file(folder, index, "refusal")
        if refusal.exists():
            return Refusal(refusal.read_text())
    # The first to fail is the one to blame; the rest lost their peer.
    _, index = min(blamed, key=lambda each: _file(folder, each[1], "log").stat().st_mtime_ns)
    return RankFailed(f"rank {index} of {len(codes)} failed; its log, {_file(folder, index, 'log')}, ends:\n{_tail(folder, index)}")


def _tail(folder: Path, index: int) -> str:
    lines = _file(folder, index, "log").read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


def _file(folder: Path, index: int, kind: str) -> Path:
    return folder / f"rank-{index}.{kind}"


def _record(folder: Path, index: int, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    if isinstance(error, Refusal):
        _file(folder, index, "refusal").write_text(str(error))


def _main(folder: Path, index: int, parent: int) -> None:
    processes.die_with(parent)
    sys.excepthook = partial(_record, folder, index)
    rank, args = pickle.loads((folder / "call.pickle").read_bytes())
    value = rank(*args)
    _file(folder, index, "result").write_bytes(pickle.dumps(value))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # libraries' threads (gloo's) now and then abort a process that ends; a finished training is not lost to that


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
