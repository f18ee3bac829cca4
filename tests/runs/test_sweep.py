"""`rematch sweep`: runs beside each other that differ in a few settings, and share what they do not differ in."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline import cli, events
from tests.support.canned_run import PROFILE, lay_out
from tests.support.core import digests

SWEEP = ("sweep", "tiny.yaml", "-p", "test.yaml", "--rounds", "1")
N = ("--set", "round.candidates.n=2,3")


@pytest.fixture
def here(tmp_path, monkeypatch):
    lay_out(tmp_path)
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({**PROFILE, "reuse": "siblings"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def said(capsys, *arguments, code=0):
    capsys.readouterr()
    assert cli.call(list(arguments)) == code, capsys.readouterr()
    return capsys.readouterr()


def data(capsys, *arguments, code=0):
    return json.loads(said(capsys, *arguments, "--json", code=code).out)


def test_every_combination_is_a_run_that_shares_with_the_others(here, capsys):
    found = data(capsys, *SWEEP, *N, "--set", "round.judged.judge.kind=length,similarity", "--seeds", "0,1")["runs"]
    names = [Path(each["run"]).name for each in found]
    assert names[:3] == ["n-2-kind-length-seed-0", "n-2-kind-length-seed-1", "n-2-kind-similarity-seed-0"] and len(names) == 8
    assert [each["settings"]["seed"] for each in found[:2]] == [0, 1]
    by_name = dict(zip(names, found, strict=True))
    assert by_name["n-2-kind-length-seed-0"]["linked"] == {}
    assert by_name["n-2-kind-similarity-seed-0"]["linked"] == {"round-01/candidates": "n-2-kind-length-seed-0", "round-01/report": names[0]}
    assert "round-01/candidates" in by_name["n-3-kind-length-seed-0"]["built"]
    folder = Path("runs/tiny-sweep")
    assert {path.name for path in folder.iterdir()} == set(names)
    again = data(capsys, *SWEEP, *N, "--set", "round.judged.judge.kind=length,similarity", "--seeds", "0,1")["runs"]
    assert all(not each["built"] and not each["linked"] and each["metrics"] for each in again), "the same command goes on"
    alone = said(capsys, "run", "tiny.yaml", "-p", "test.yaml", "--rounds", "1", "--set", "round.candidates.n=2", "--runs", "alone")
    assert alone and digests(Path("alone/tiny")) == digests(folder / "n-2-kind-length-seed-0")


def test_it_ends_with_one_table(here, capsys):
    out = said(capsys, *SWEEP, *N, "--name", "mine").out
    table = out[out.rindex("runs/mine  2 runs, round-01") :]
    assert "n-2" in table and "n-3" in table and "built  linked" in table and "accuracy" not in table.split("\n")[0]
    assert "rematch diff runs/mine/n-2 runs/mine/n-3" in table


def test_one_that_fails_does_not_lose_the_others(here, capsys):
    Path("half.jsonl").write_text('{"prompt": "a"}\n')
    sources = "--set", "start.prompts.source={kind: jsonl, path: gone.jsonl},{kind: jsonl, path: half.jsonl}"
    shown = said(capsys, *SWEEP, *sources, code=2)
    assert "gone.jsonl: no such file or directory" in shown.out and shown.out.count("failed") == 1
    found = data(capsys, *SWEEP, *sources, code=2)["runs"]
    assert "gone.jsonl" in found[0]["error"] and found[1]["error"] is None and found[1]["metrics"]
    assert [e["error"] is None for e in events.read(Path(found[1]["run"])) if e["kind"] == "ended"] == [True, True]


BAD = {
    "field": (["--set", "round.candidates.nn=1,2"], "nn-1: round-01/candidates: no field 'nn'; did you mean 'n'?"),
    "entry": (
        ["--set", "round.candidate.n=1,2"],
        "--set round.candidate.n=1: no entry under round: 'candidate'; did you mean 'candidates'?",
    ),
    "one value": (
        ["--set", "round.candidates.n=2"],
        "sweep: nothing has more than one value; give one a list, such as --seeds 0,1, or use `rematch run`",
    ),
    "equal": (["--set", "round.candidates.n=2,2"], "--set round.candidates.n=2,2: has the value 2 twice; keep one of them"),
    "equal numbers": (
        ["--set", "round.candidates.top_p=1,1.0"],
        "--set round.candidates.top_p=1,1.0: has the value 1.0 twice; keep one of them",
    ),
    "empty": (["--set", "round.candidates.n="], "--set round.candidates.n=: names no value; give it two or more"),
    "no equals": (
        ["--set", "round.candidates.n"],
        "--set round.candidates.n: has no '='; write it as --set round.policy.learning_rate=1.0e-6,2.0e-6",
    ),
    "two commas": (
        ["--set", "round.candidates.n=1,,2"],
        "--set round.candidates.n=1,,2: is no list of values; part them by single commas, and quote a value that holds one: "
        "round.candidates.n='a,b',c",
    ),
    "seeds": (["--seeds", "0,one"], "--seeds 0,one: takes whole numbers with commas between them; write --seeds 0,1,2"),
    "equal seeds": (["--seeds", "1,1"], "--seeds 1,1: has the value 1 twice; keep one of them"),
    "twice": (["--seeds", "0,1", "--set", "seed=2,3"], "seed: is swept twice; put all its values into one list"),
    "profile": (
        ["--set", "profile.rows_per_shard=2,4"],
        "--set profile.rows_per_shard=2,4: is the profile's, which never changes what comes out; a sweep changes the recipe",
    ),
    "a gate": (
        ["--set", "round.judged.max_undecided=0.1,0.2"],
        "max-undecided-0-1 and max-undecided-0-2: would be the same steps; sweep a setting that changes what is made",
    ),
    "name": (["--seeds", "0,1", "--name", "../x"], "--name ../x: is no name of a folder of runs; use small letters, digits and hyphens"),
}


@pytest.mark.parametrize("arguments, sentence", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_swept_is_refused_before_anything_runs(here, capsys, arguments, sentence):
    shown = said(capsys, *SWEEP, *arguments, code=2)
    assert shown.err.splitlines()[0] == f"rematch: {sentence}" and not Path("runs").exists()


def test_names_tell_the_settings_and_differ(here):
    from pipeline import sweep

    values = [0.05, 1e-6, -1, "a,b", "a b", [1, 2], True, None, "0-05"]
    names = [sweep._name({"round.policy.beta": value}) for value in values]
    assert names[:2] == ["beta-0-05", "beta-1-0e-06"] and len(set(names)) == len(names)
    assert all(sweep._NAME.fullmatch(name) for name in names)
    assert sweep._name({"round.a.beta": 1, "round.b.beta": 2}) == "round-a-beta-1-round-b-beta-2"


def test_lists_and_quoted_commas_are_one_value():
    from pipeline import sweep

    assert sweep.axis("a=[1, 2],[3]").values == ([1, 2], [3])
    assert sweep.axis("a='x,y',z").values == ("x,y", "z")
    assert sweep.axis("a={by_round: [1, 2]},3").values == ({"by_round": [1, 2]}, 3)
