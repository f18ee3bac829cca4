"""events.jsonl: what happens in a run, while it happens, for whoever watches; nothing depends on it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import artifact, cli, events, run
from pipeline.build import Context, build
from pipeline.errors import Problems, Refusal
from pipeline.executors.inline import InlinePool
from tests.support.core import digests, profile, small, steps
from tests.support.plugins import shout

ROOT = Path(__file__).parents[2]


def kinds(folder):
    return [event["kind"] for event in events.read(folder)]


def test_a_run_is_told_from_its_beginning_to_its_end(tmp_path):
    built = run.run(small(rounds=1), profile(), tmp_path / "r")
    told = list(events.read(tmp_path / "r"))
    assert (told[0]["kind"], told[0]["recipe"], told[0]["todo"]) == ("run", "core", 4)
    assert (told[-1]["kind"], told[-1]["built"], told[-1]["error"]) == ("ended", 4, None)
    for kind in ("started", "finished"):
        assert [event["address"] for event in told if event["kind"] == kind] == built
    finished = {event["address"]: event for event in told if event["kind"] == "finished"}
    assert finished["start/words"]["digest"] == digests(tmp_path / "r")["start/words"]
    assert finished["round-01/loud"]["facts"]["rows"] == 20 and finished["round-01/loud"]["seconds"] >= 0
    progress = [event for event in told if event["kind"] == "progress" and event["address"] == "round-01/loud"]
    assert progress[-1]["done"] == progress[-1]["total"] == 5
    assert [event["time"] for event in told] == sorted(event["time"] for event in told)


def test_events_are_in_no_artifact_and_no_key(tmp_path):
    run.run(small(rounds=1), profile(), tmp_path / "r")
    before = digests(tmp_path / "r")
    (tmp_path / "r" / events.FILE).unlink()
    assert run.run(small(rounds=1), profile(), tmp_path / "r") == [] and digests(tmp_path / "r") == before


def test_what_fails_is_told_with_its_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise Refusal("there is nothing to shout; whisper")

    monkeypatch.setattr(shout, "run", refuse)
    with pytest.raises(Refusal):
        run.run(small(rounds=1), profile(), tmp_path / "r")
    last = list(events.read(tmp_path / "r"))[-2:]
    assert [event["kind"] for event in last] == ["failed", "ended"]
    assert last[0]["address"] == "round-01/loud" and last[0]["error"] and last[1]["error"].startswith("round-01/loud: ")


def test_what_is_retired_and_dropped_is_told(tmp_path):
    run.run(small(round__words__keep=False), profile(), tmp_path / "r")
    assert {e["address"] for e in events.read(tmp_path / "r") if e["kind"] == "dropped"} == {"round-01/words", "round-02/words"}
    run.retire(tmp_path / "r", ["round-03/loud"])
    assert list(events.read(tmp_path / "r"))[-1]["addresses"] == ["round-03/loud"]


def test_a_torn_line_is_passed_over_and_spoils_no_other(tmp_path):
    events.append(tmp_path, "one", n=1)
    with (tmp_path / events.FILE).open("ab") as file:
        file.write(b'{"time": 1, "kind": "to')
    events.append(tmp_path, "two", loss=float("nan"))
    assert kinds(tmp_path) == ["one", "two"] and list(events.read(tmp_path))[1]["loss"] is None
    (tmp_path / events.FILE).write_bytes((tmp_path / events.FILE).read_bytes()[:-4] + b"\n[]\n\xff\n")
    assert kinds(tmp_path) == ["one"]


def test_many_processes_write_whole_lines(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline import events\n"
        "for n in range(300): events.append(Path(sys.argv[1]), 'n', n=n, pad='x' * 500)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [each.wait() for each in writers] == [0, 0, 0]
    assert sorted(event["n"] for event in events.read(tmp_path)) == sorted([*range(300)] * 3)


def test_a_file_that_cannot_be_written_costs_one_warning_and_no_run(tmp_path, caplog):
    (tmp_path / "r" / events.FILE).mkdir(parents=True)
    assert len(run.run(small(rounds=1), profile(), tmp_path / "r")) == 4
    assert caplog.text.count("cannot be written (Is a directory); the run goes on") == 1


def test_a_stage_may_tell_of_what_it_likes(tmp_path):
    from pipeline.tools import Tools

    told = []
    tools = Tools("round-01/x", 1, 1, {}, tmp_path / "out", tmp_path, profile(), tell=lambda kind, **rest: told.append((kind, rest)))
    tools.event("trained", step=3, loss=0.5)
    assert told == [("trained", {"address": "round-01/x", "step": 3, "loss": 0.5})]


def test_the_page_of_events_lists_every_kind_and_the_code_writes_no_other():
    page = (ROOT / "docs" / "events.md").read_text()
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, re.M)) == events.KINDS
    written = set()
    for folder in ("pipeline", "training", "trainers", "stages"):
        for path in (ROOT / folder).rglob("*.py"):
            written |= set(re.findall(r'(?:\.append|append|\.event)\((?:[\w.]+, )?"(\w+)", ?\*{0,2}\w', path.read_text()))
    assert written == set(events.KINDS)


def test_a_gangs_first_rank_tells_through_a_file(tmp_path):
    from training import progress

    told = []
    with progress.watched(tmp_path, lambda *said: told.append(said)):
        report = progress.written(tmp_path)
        report(0, 2, {})
        report(1, 2, {"step": 1, "loss": 0.5})
        report(2, 2, {"step": 2, "loss": 0.25})
    assert told == [(0, 2, {}), (1, 2, {"step": 1, "loss": 0.5}), (2, 2, {"step": 2, "loss": 0.25})]


def test_one_step_is_built_by_one_command(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "r"
    run.run(small(), profile(), folder)
    run.retire(folder, ["round-02/loud", "round-02/both", "round-02/words"])
    before = digests(folder)
    assert cli.call(["build", str(folder), "round-02/both"]) == 2
    assert capsys.readouterr().err == (
        "rematch: round-02/both: reads round-02/loud (missing); build that first: "
        f"`rematch build {folder} round-02/loud`, or all of it: `rematch run {folder}`\n"
    )
    assert cli.call(["build", str(folder), "2/loud"]) == 0
    assert cli.call(["build", str(folder), "round-02/both", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["built"] == ["round-02/both"]
    assert set(digests(folder)) - set(before) == {"round-02/loud", "round-02/both"}
    assert cli.call(["build", str(folder), "round-02/both"]) == 0 and "is there already" in capsys.readouterr().out
    assert cli.call(["build", str(folder), "round-02"]) == 2
    assert "round-02: is a whole round; name one step of it, such as round-02/loud" in capsys.readouterr().err
    assert cli.call(["build", str(folder), "round-02/lod"]) == 2 and "did you mean 'loud'?" in capsys.readouterr().err


def test_a_damaged_or_changed_step_is_not_built_over(tmp_path):
    folder = tmp_path / "r"
    run.run(small(), profile(), folder)
    with pytest.raises(Refusal, match="round-01/loud: is stale: suffix.*; `rematch retire .* round-01/loud` moves it to the attic"):
        run.build_step(small(round__loud__suffix="x"), profile(), folder, "round-01/loud")


def test_steps_of_one_run_may_be_built_at_once_and_a_run_may_not_begin(tmp_path):
    run.run(small(rounds=1), profile(), tmp_path / "r")
    run.retire(tmp_path / "r", ["round-01/loud", "round-01/words"])
    with run.locked(tmp_path / "r", shared=True):
        assert run.build_step(small(rounds=1), profile(), tmp_path / "r", "round-01/loud") == ["round-01/loud"]
        with pytest.raises(Refusal, match="is held by `rematch build` of some of its steps; wait for it"):
            run.run(small(rounds=1), profile(), tmp_path / "r")
    with run.locked(tmp_path / "r"), pytest.raises(Refusal, match="is held by process"):
        run.build_step(small(rounds=1), profile(), tmp_path / "r", "round-01/words")


def test_the_same_step_is_built_by_one_process_only(tmp_path):
    run.run(small(rounds=0), profile(), tmp_path / "r")
    step = next(step for step in steps(small()) if step.address == "round-01/loud")
    with artifact.draft(step.folder(tmp_path / "r"), step.key), pytest.raises(Refusal, match="is being built by another process"):
        build(step, Context(run=tmp_path / "r", profile=profile()), InlinePool())


def test_a_step_that_does_not_exist_is_not_built(tmp_path):
    run.run(small(rounds=1), profile(), tmp_path / "r")
    with pytest.raises(Refusal, match="no step 'round-01/lout'; did you mean 'round-01/loud'"):
        run.build_step(small(rounds=1), profile(), tmp_path / "r", "round-01/lout")
    with pytest.raises(Problems):
        run.build_step(small(rounds=1, round__loud__suffx="x"), profile(), tmp_path / "r", "round-01/loud")
