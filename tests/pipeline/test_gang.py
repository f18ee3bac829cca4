"""Gangs of local processes: they find each other, they end together, and nothing outlives whoever started them."""

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import processes
from pipeline.errors import Refusal
from pipeline.executors import _gang
from pipeline.placement import Placement

TWO = Placement(workers=2)
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


def environment() -> tuple[str, ...]:
    return tuple(os.environ[name] for name in NAMES)


def test_each_rank_knows_its_place_and_results_come_in_rank_order(tmp_path: Path) -> None:
    assert _gang.run(environment, (), TWO, tmp_path) == [("0", "2", "0", "2", "127.0.0.1"), ("1", "2", "1", "2", "127.0.0.1")]


def add_ranks(scale: int) -> int:
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    value = torch.tensor(scale * (distributed.get_rank() + 1))
    distributed.all_reduce(value)
    distributed.destroy_process_group()
    return int(value)


def test_ranks_reach_each_other_through_torch(tmp_path: Path) -> None:
    assert _gang.run(add_ranks, (10,), TWO, tmp_path) == [30, 30]


def aborts_as_it_ends() -> int:
    atexit.register(os.abort)
    return 7


def test_what_a_rank_returned_is_not_lost_to_how_it_ends(tmp_path: Path) -> None:
    assert _gang.run(aborts_as_it_ends, (), TWO, tmp_path) == [7, 7]


def one_is_killed(signals: int) -> None:
    if os.environ["RANK"] == "1":
        time.sleep(0.3)
        os.kill(os.getpid(), signals)
    subprocess.Popen(["sleep", "600"])
    time.sleep(600)


@pytest.mark.parametrize("signals", [signal.SIGKILL, signal.SIGSEGV])
def test_a_rank_that_is_killed_ends_the_gang_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: signal.Signals) -> None:
    monkeypatch.setattr(_gang, "GRACE_S", 0.5)
    with pytest.raises(_gang.RankLost, match=f"rank 1 of 2 was ended by {signals.name}"):
        _gang.run(one_is_killed, (signals,), TWO, tmp_path)
    assert sleepers() == []


def one_raises() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("a very particular problem")
    time.sleep(600)


def test_a_rank_that_raises_is_named_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gang, "GRACE_S", 0.5)
    with pytest.raises(_gang.RankFailed, match=r"(?s)rank 1 of 2 failed.*one_raises.*ValueError: a very particular problem"):
        _gang.run(one_raises, (), TWO, tmp_path)
    assert not processes.descendants(os.getpid())


def one_complains_of_the_other() -> None:
    if os.environ["RANK"] == "0":
        raise ConnectionError("connection closed by peer")
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_rank_that_was_killed_is_blamed_and_not_the_one_that_noticed_first(tmp_path: Path) -> None:
    with pytest.raises(_gang.RankLost, match="rank 1 of 2 was ended by SIGKILL"):
        _gang.run(one_complains_of_the_other, (), TWO, tmp_path)


def one_refuses() -> None:
    if os.environ["RANK"] == "1":
        raise Refusal("start/policy: the loss is NaN at step 3; lower learning_rate (1e-1)")
    raise ConnectionError("connection closed by peer")


def test_a_refusal_of_a_rank_arrives_as_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        _gang.run(one_refuses, (), TWO, tmp_path)
    assert type(caught.value) is Refusal
    assert str(caught.value) == "start/policy: the loss is NaN at step 3; lower learning_rate (1e-1)"


def sleeps() -> None:
    subprocess.Popen(["sleep", "600"])
    time.sleep(600)


GANG = (
    "from tests.pipeline import test_gang as t; from pathlib import Path; import sys; t._gang.run(t.sleeps, (), t.TWO, Path(sys.argv[1]))"
)
GUARDED = """
import subprocess, sys, time
from pipeline import processes
with processes.guard():
    # It leaves the session and the process group, and so does its own child: nothing but the guard can find it.
    subprocess.Popen(["setsid", "sh", "-c", "sleep 601 & sleep 602"])
    time.sleep(600 if sys.argv[1] == "hold" else 1.5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize(("code", "expected"), [(GANG, 5), (GUARDED, 4)])
def test_killing_the_parent_leaves_no_process_behind(tmp_path: Path, code: str, expected: int) -> None:
    argument = str(tmp_path) if code is GANG else "hold"
    parent = subprocess.Popen([sys.executable, "-c", code, argument], cwd=Path(__file__).parents[2])
    until(lambda: len(processes.descendants(parent.pid)) >= expected)
    time.sleep(1.2)  # ranks have asked for the signal, and the guard has looked
    below = processes.descendants(parent.pid)
    assert len(below) >= expected
    parent.kill()
    parent.wait()
    until(lambda: not [each for each in below if each.alive()])


@pytest.mark.skipif(sys.platform != "linux", reason="the guard reads /proc")
def test_the_guard_ends_what_is_left_when_its_block_ends() -> None:
    parent = subprocess.Popen([sys.executable, "-c", GUARDED, "end"], cwd=Path(__file__).parents[2])
    until(lambda: len(processes.descendants(parent.pid)) >= 4)
    below = processes.descendants(parent.pid)
    assert parent.wait(timeout=20) == 0
    until(lambda: not [each for each in below if each.alive()])


def sleepers() -> list[str]:
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line == "sleep 600"]


def until(holds: object, timeout_s: float = 20.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
