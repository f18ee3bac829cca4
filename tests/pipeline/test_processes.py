"""Processes that must not outlive us, and those that may."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import processes

ROOT = Path(__file__).parents[2]
OWNER = """
import subprocess, sys, time
from pipeline import processes
before = subprocess.Popen(["sleep", "60"])
with processes.guard(end_with_block=False):
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True)
    print(before.pid, child.pid, int(child.stdout.readline()), flush=True)
    time.sleep(60 if sys.argv[1] == "hold" else 2 * processes.LOOK_S)
print("over", flush=True)
time.sleep(60)
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard reads /proc")


def _owner(how: str) -> tuple[subprocess.Popen[str], int, list[int]]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, how], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout is not None
    before, *started = (int(pid) for pid in owner.stdout.readline().split())
    return owner, before, started


def _runs(pid: int) -> bool:
    now = processes.look(pid)
    return now is not None and now.state not in "ZX"


def test_what_a_killed_owner_started_is_ended():
    """`kill -9` of a parent left vLLM's engine processes alive, with the GPU's memory."""
    owner, before, started = _owner("hold")
    time.sleep(3 * processes.LOOK_S)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    try:
        until = time.monotonic() + 10
        while any(map(_runs, started)):
            assert time.monotonic() < until, "left behind"
            time.sleep(0.1)
        assert _runs(before), "what was there before is not ours to end"
    finally:
        os.kill(before, signal.SIGKILL)


def test_what_a_block_leaves_in_order_lives_on_if_it_may():
    owner, before, started = _owner("end")
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "over\n"
        assert all(map(_runs, [before, *started]))
    finally:
        owner.kill()
        owner.wait()
        for pid in (before, *started):
            os.kill(pid, signal.SIGKILL)
