"""Who still writes into a draft's work folder. Workers outlive a killed coordinator by a moment, and two must not write at once.

A worker holds its folder as long as it lives: the kernel lets go when its process, and whatever it forked, is gone.
"""

import fcntl
import time
from io import TextIOWrapper
from pathlib import Path

from pipeline.errors import Refusal

LOOK_S = 0.2


def hold(folder: Path) -> TextIOWrapper:
    """Mark `folder` as being written to, until the returned file is closed or this process ends."""
    handle = (folder / "writers").open("a")
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def wait(path: Path, timeout_s: float) -> None:
    """Return once nobody holds the lock file at `path`. Raises Refusal after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not _free(path):
        if time.monotonic() > deadline:
            raise Refusal(f"{path.parent}: processes of an earlier run have written here for {timeout_s:g} s; end them and run again")
        time.sleep(LOOK_S)


def _free(path: Path) -> bool:
    if not path.exists():
        return True
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
