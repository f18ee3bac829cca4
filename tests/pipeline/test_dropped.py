"""A node with `keep: false`: its files go when all that reads it is done, its manifest stays, and it comes back when it is read again."""

import json
import shlex
import signal
import subprocess
import sys

import pytest

from pipeline import artifact, cli, recipe, run
from pipeline.build import Context, build
from pipeline.errors import Problems, Refusal
from pipeline.executors.inline import InlinePool
from pipeline.plan import plan
from tests.support.core import digests, profile, small, steps

DRAFT = {"round__words__keep": False}
"""round-N/words is read by round-N+1/words alone; the last one by nothing."""


def _files(folder):
    return sorted(path.name for path in folder.iterdir())


def _states(body, folder, **kwargs):
    return {address: each.state for address, each in run.status(steps(body), folder, **kwargs).items()}


def test_keep_is_no_part_of_a_key():
    assert [s.key for s in steps(small())] == [s.key for s in steps(small(**DRAFT))]
    assert {s.address for s in steps(small(**DRAFT)) if not s.keep} == {"round-01/words", "round-02/words", "round-03/words"}


def test_keep_is_yes_or_no():
    with pytest.raises(Problems, match="round-01/words: keep: is 'never'; write true, or false"):
        steps(small(round__words__keep="never"))


def test_its_files_go_and_its_manifest_stays(tmp_path):
    kept, folder = tmp_path / "kept", tmp_path / "r"
    run.run(small(), profile(), kept)
    run.run(small(**DRAFT), profile(), folder)
    assert digests(folder) == digests(kept), "manifests keep their digests"
    assert _files(folder / "round-01/words") == _files(folder / "round-02/words") == ["manifest.json"]
    assert _files(folder / "round-03/words") == ["data-00000.parquet", "manifest.json"], "what nothing reads is never dropped"
    states = _states(small(**DRAFT), folder, verify=True)
    assert {a for a, state in states.items() if state == "dropped"} == {"round-01/words", "round-02/words"}
    assert {state for a, state in states.items() if a not in ("round-01/words", "round-02/words")} == {"done"}
    before, after = (artifact.read(place / "round-01/words").manifest for place in (kept, folder))
    assert (after.facts, after.files, after.dropped, before.dropped) == (before.facts, before.files, True, False)
    assert run.run(small(**DRAFT), profile(), folder) == [], "its readers are done, so nobody needs it"


def test_it_goes_as_soon_as_its_last_reader_is_done(tmp_path):
    seen = []

    def started(address):
        seen.append((address, (tmp_path / "r/round-01/words/data-00000.parquet").exists()))

    run.run(small(**DRAFT), profile(), tmp_path / "r", context=Context(run=tmp_path / "r", profile=profile(), started=started))
    there = dict(seen)
    assert there["round-02/loud"] and there["round-02/words"] and not there["round-02/both"]


def test_a_run_that_was_kept_drops_when_the_recipe_says_so(tmp_path):
    run.run(small(), profile(), tmp_path / "r")
    assert run.run(small(**DRAFT), profile(), tmp_path / "r") == []
    assert _states(small(**DRAFT), tmp_path / "r")["round-01/words"] == "dropped"
    assert run.run(small(), profile(), tmp_path / "r") == [] and _states(small(), tmp_path / "r")["round-01/words"] == "dropped"


def test_what_reads_it_again_has_it_rebuilt_first_and_dropped_again(tmp_path):
    folder = tmp_path / "r"
    run.run(small(**DRAFT), profile(), folder)
    before = digests(folder)
    built = run.run(small(**DRAFT), profile(), folder, start_at="round-03/words")
    assert built == ["round-01/words", "round-02/words", "round-03/words"], "round-02/words is made of round-01/words, dropped too"
    assert digests(folder) == before
    assert _files(folder / "round-01/words") == _files(folder / "round-02/words") == ["manifest.json"]
    assert len(list((folder / "attic").rglob("manifest.json"))) == 3


def test_one_more_round_reads_the_last_one_before_it_goes(tmp_path):
    run.run(small(rounds=2, **DRAFT), profile(), tmp_path / "r")
    assert run.run(small(**DRAFT), profile(), tmp_path / "r") == ["round-03/loud", "round-03/words", "round-03/both"]
    assert _states(small(**DRAFT), tmp_path / "r")["round-02/words"] == "dropped"


def test_rebuilt_with_other_bytes_its_readers_are_stale(tmp_path):
    """As with any rebuilt input: nothing mixes in silence."""
    folder = tmp_path / "r"
    run.run(small(**DRAFT), profile(), folder)
    run.retire(folder, ["round-01/words"])
    step = next(s for s in steps(small()) if s.address == "round-01/words")
    inputs = {slot: [artifact.read(folder / a).manifest.digest for a in all_] for slot, all_ in step.inputs.items()}
    with artifact.draft(folder / step.address, step.key) as made:
        (made.out / "data-00000.parquet").write_bytes(b"other")
        artifact.publish(
            made, folder / step.address, makes="prompts", key=step.key, identity=step.identity, inputs=inputs, facts={}, provenance={}
        )
    with pytest.raises(Problems, match="round-02/words: is stale: its input 'prompts' was rebuilt since"):
        run.run(small(**DRAFT), profile(), folder)


def test_a_fork_has_its_own_files(tmp_path):
    run.run(small(), profile(), tmp_path / "r")
    forked, _ = run.fork(tmp_path / "r", tmp_path / "f", at=1, changes=["round.words.keep=false"])
    before = digests(tmp_path / "r")
    run.run(forked, profile(), tmp_path / "f")
    assert _files(tmp_path / "f/round-01/words") == ["manifest.json"]
    assert digests(tmp_path / "r") == before and not artifact.read(tmp_path / "r/round-01/words").manifest.dropped
    again, shared = run.fork(tmp_path / "f", tmp_path / "g", at=2, changes=["round.words.suffix=huh"])
    assert "round-01/words" in shared and artifact.read(tmp_path / "g/round-01/words").manifest.dropped
    assert run.run(again, profile(), tmp_path / "g") == ["round-01/words", "round-02/words", "round-03/words"]


def test_a_step_never_reads_what_was_dropped(tmp_path):
    run.run(small(**DRAFT), profile(), tmp_path / "r")
    run.retire(tmp_path / "r", ["round-02/words"])
    step = next(s for s in steps(small()) if s.address == "round-02/words")
    with pytest.raises(Refusal, match="round-01/words: is gone, and this step reads it"):
        build(step, Context(run=tmp_path / "r", profile=profile()), InlinePool())


def test_a_changed_setting_of_a_dropped_step_is_stale(tmp_path):
    run.run(small(**DRAFT), profile(), tmp_path / "r")
    with pytest.raises(Problems, match=r"round-01/words: is stale: suffix: '\?' -> '#'"):
        run.run(small(round__words__suffix="#"), profile(), tmp_path / "r")


KILL = """
import os, pathlib, shutil, signal, sys
from pathlib import Path
from pipeline import artifact, run
from tests.support.core import profile, small

calls, kill_at = 0, int(sys.argv[2])
def counted(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
drop = artifact.drop
def watched(have):
    # Every call that changes the disk while something is dropped: the new manifest's fsync and rename, each removal.
    before = os.fsync, os.replace, os.unlink, pathlib.Path.unlink
    os.fsync, os.replace, os.unlink, pathlib.Path.unlink = (counted(each) for each in before)
    try:
        drop(have)
    finally:
        os.fsync, os.replace, os.unlink, pathlib.Path.unlink = before
artifact.drop = watched
run.run(small(round__words__keep=False), profile(), Path(sys.argv[1]))
print(calls)
"""


def test_killed_while_it_drops_it_resumes_to_the_same(tmp_path):
    run.run(small(**DRAFT), profile(), tmp_path / "whole")
    whole = digests(tmp_path / "whole")

    def attempt(folder, kill_at):
        return subprocess.run([sys.executable, "-c", KILL, str(folder), str(kill_at)], capture_output=True, text=True)

    points = int(attempt(tmp_path / "count", 0).stdout)
    assert points >= 8
    for kill_at in range(1, points + 1):
        folder = tmp_path / str(kill_at)
        assert attempt(folder, kill_at).returncode == -signal.SIGKILL
        assert digests(folder).items() <= whole.items(), "what is visible is whole, or dropped"
        states = run.status(steps(small(**DRAFT)), folder).values()
        assert not {each.state for each in states} & {"corrupt", "stale"}
        run.run(small(**DRAFT), profile(), folder)
        assert digests(folder) == whole
        assert _files(folder / "round-01/words") == _files(folder / "round-02/words") == ["manifest.json"]


def _call(capsys, command):
    assert cli.call(shlex.split(command)) == 0
    return capsys.readouterr().out


def test_the_views_say_dropped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run.run(small(**DRAFT), profile(), tmp_path / "runs/r")
    data = json.loads(_call(capsys, "status runs/r --json"))
    assert data["counts"] == {"done": 8, "dropped": 2}
    text = _call(capsys, "status runs/r")
    assert "8 done, 2 dropped" in text and "All is there" in text
    assert json.loads(_call(capsys, "plan runs/r --json"))["to_build"] == []
    assert json.loads(_call(capsys, "plan runs/r --from round-03/words --json"))["to_build"] == [
        "round-01/words", "round-02/words", "round-03/words"
    ]  # fmt: skip
    assert "dropped: nothing was left to read them" in _call(capsys, "show runs/r round-01/words")
    assert "damaged" in _call(capsys, "verify runs/r")
    assert cli.call(["export", "runs/r", "round-01/words", "--to", "x.jsonl"]) == 2
    assert "was dropped, as its recipe says" in capsys.readouterr().err


# A node that some rounds do without.

SOMETIMES = {"round__both": {"stage": {"by_round": [None, "tests.support.plugins.shout"]}, "prompts": ["loud", "loud@all"]}}


def test_a_node_without_a_stage_in_a_round_is_not_there(tmp_path):
    body = small(**SOMETIMES)
    assert [s.address for s in steps(body) if s.node == "both"] == ["round-02/both", "round-03/both"]
    keys = {s.address: s.key for s in steps(small())}
    assert {s.key for s in steps(body)} <= set(keys.values()), "where it is there it is the same"


def test_reading_a_node_that_is_not_there_means_the_starts_or_is_refused():
    body = recipe.make(
        {
            "name": "x",
            "rounds": 2,
            "start": {"words": {"stage": "tests.support.plugins.words"}},
            "round": {
                "words": {"stage": {"by_round": [None, "tests.support.plugins.shout"]}, "prompts": "words@start"},
                "loud": {"stage": "tests.support.plugins.shout", "prompts": "words"},
            },
        },
        "test",
    )
    reads = {s.address: s.reads for s in plan(body, profile())}
    assert reads["round-01/loud"] == ("start/words",) and reads["round-02/loud"] == ("round-02/words",)
    late = small(round__late={"stage": "tests.support.plugins.shout", "prompts": "both"}, **SOMETIMES)
    with pytest.raises(Problems, match="round-01/late: prompts: 'both' has no stage in round-01, so it is not there; let late read"):
        steps(late)
    before = small(round__late={"stage": "tests.support.plugins.shout", "prompts": {"by_round": ["loud", "both@prev"]}}, **SOMETIMES)
    with pytest.raises(Problems, match="round-02/late: prompts: 'both@prev' has no stage in round-01"):
        steps(before)
