"""Kill a run at every durable system call it makes, resume it, and compare digests. Prints how many points there were.

Each attempt is a forked child that kills itself with SIGKILL just before, or just after, its N-th fsync, rename or
replace. A program of its own, because it forks.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import run
from tests.support.core import digests, profile, small


def child(folder: Path, kill_at: int, after: bool) -> int:
    """Run in a forked child; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        calls = 0

        def counted(real: Callable) -> Callable:
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == kill_at and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*args, **kwargs)
                if calls == kill_at and after:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        os.fsync, os.rename, os.replace = counted(os.fsync), counted(os.rename), counted(os.replace)
        run.run(small(rounds=1), profile(), folder)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    base = Path(sys.argv[1])
    # Here and not in a child, so that no child has to import pandas and the like for itself.
    run.run(small(rounds=1), profile(), base / "whole")
    whole = digests(base / "whole")
    points = 0
    for after in (False, True):
        kill_at = 1
        while True:
            broken = base / "broken"
            status = child(broken, kill_at, after)
            if status == 0:
                break
            assert os.WTERMSIG(status) == signal.SIGKILL
            # Whatever is visible now is whole: digests() re-hashes every published file.
            visible = digests(broken)
            assert visible.items() <= whole.items(), f"call {kill_at}: {visible}"
            assert child(broken, 0, False) == 0, f"call {kill_at}: it did not resume"
            assert digests(broken) == whole, f"call {kill_at}: other bytes"
            left = [path for path in broken.rglob(".*") if path.is_dir()]
            assert not left, f"call {kill_at}: drafts left behind: {left}"
            shutil.rmtree(broken)
            points += 1
            kill_at += 1
        shutil.rmtree(base / "broken")
    print(points)


if __name__ == "__main__":
    main()
