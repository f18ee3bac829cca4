"""Numbers that leave a run: the Parquet for notebooks, the table of diagnostics, and reporters, each with its real library.

What is not installed is skipped here; `pip install tensorboard wandb mlflow-skinny` has all three.
"""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipeline import cli, measured, plugin, run
from pipeline.errors import Refusal
from pipeline.measured import Row
from pipeline.profile import Profile, load, plain
from pipeline.views import diagnostics, facts
from tests.support.canned_run import finish, lay_out, recipe
from tests.support.core import profile, small

ROWS = [Row(0, "report", "accuracy", 0.25), Row(1, "report", "accuracy", 0.5), Row(1, "pairs", "dropped.a tie!", 3.0)]


# One list of all numbers.


def test_every_number_of_every_step_is_a_row(tmp_path):
    made = run.run(small(rounds=2), profile(), tmp_path / "r")
    planned = [step for step in run.plan(small(rounds=2), profile())]
    found = measured.rows(planned, tmp_path / "r")
    assert [(row.round, row.node) for row in found if row.metric == "rows"] == [
        (0, "words"), (1, "loud"), (1, "words"), (1, "both"), (2, "loud"), (2, "words"), (2, "both"),
    ]  # fmt: skip
    assert len(made) == 7 and {row.value for row in found if row.node == "loud" and row.metric == "rows"} == {20.0}
    step = next(step for step in planned if step.address == "round-02/loud")
    told = {"a": 1, "b": {"c": 2.5, "d": "text", "e": None, "f": True}, "alarms": ["one: is", "two: are"]}
    assert measured.of(step, told) == [Row(2, "loud", "a", 1.0), Row(2, "loud", "b.c", 2.5), Row(2, "loud", "alarms", 2.0)]


def test_the_parquet_opens_in_a_notebook(tmp_path):
    assert measured.write(ROWS, tmp_path / "m.parquet") == 3
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.schema.equals(measured.SCHEMA) and [Row(**row) for row in table.to_pylist()] == ROWS
    query = f"select max(value) from '{tmp_path / 'm.parquet'}' where metric = 'accuracy'"
    assert duckdb.sql(query).fetchall() == [(0.5,)]
    assert measured.write([], tmp_path / "none.parquet") == 0 and pq.read_table(tmp_path / "none.parquet").num_rows == 0
    with pytest.raises(Refusal, match="exists already, and export overwrites nothing"):
        measured.write(ROWS, tmp_path / "m.parquet")
    with pytest.raises(Refusal, match="make it first"):
        measured.write(ROWS, tmp_path / "nowhere" / "m.parquet")


# The command line, over a run with diagnoses.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of two rounds whose rounds are diagnosed; the canned engine writes the responses."""
    place = tmp_path_factory.mktemp("made")
    lay_out(place)
    body = recipe(place / "model")
    body["round"]["diagnosis"] = {"stage": "diagnose", "pairs": "pairs", "judged": "judged", "earlier": "diagnosis@all"}
    body["round"]["diagnosis"]["limits"] = {"longer_wins": 0.9, "text_gap": 2.0}
    (place / "tiny.yaml").write_text(json.dumps(body))
    finish(place)
    return place


def test_show_lists_diagnostics_over_the_rounds_and_marks_alarms(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.call(["show", "runs/tiny"]) == 0
    page = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in page.splitlines() if line.split()}
    assert lines["diagnostics"] == ["round-01", "round-02"]
    assert lines["longer_wins"] == ["1", "!", "1", "!"] and lines["groups"] == ["10", "10"]
    assert len(lines["length_ratio_to_first"]) == 1  # the first round has nothing before it
    assert "Alarms:" in page and "round-02/diagnosis: longer_wins: 1 is above 0.9: the judge prefers length" in " ".join(page.split())
    assert cli.call(["show", "runs/tiny", "round-01"]) == 0
    assert "2 alarms" in (one := capsys.readouterr().out) and "round-01/diagnosis: text_gap" in one and "round-02" not in one
    assert cli.call(["show", "runs/tiny", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["rounds"][2]["steps"][-1]["facts"]
    assert [each.split(":")[0] for each in told["alarms"]] == ["longer_wins", "text_gap"]


def test_export_of_all_numbers(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made)
    to = tmp_path / "metrics.parquet"
    assert cli.call(["export", "runs/tiny", "--metrics", str(to), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = [Row(**row) for row in pq.read_table(to).to_pylist()]
    assert said["rows"] == len(found) and Row(2, "diagnosis", "longer_wins", 1.0) in found and Row(1, "diagnosis", "alarms", 2.0) in found
    assert {row.round for row in found} == {0, 1, 2} and Row(1, "pairs", "groups", 10.0) in found
    assert cli.call(["export", "runs/tiny", "round-01/pairs", "--metrics", str(tmp_path / "b.parquet")]) == 2
    assert "holds the whole run; leave out the address and --to" in capsys.readouterr().err
    assert cli.call(["export", "runs/tiny", "--metrics", str(to)]) == 2 and "overwrites nothing" in capsys.readouterr().err


def overview(count: int, nodes: tuple[str, ...] = ("diagnosis",)) -> list[dict]:
    told = {"longer_wins": 0.75, "ranking_accuracy": 0.5, "nested": {"a": 1}, "alarms": ["longer_wins: \x1b[31m"]}
    return [
        {"name": f"round-{n:02d}", "steps": [{"address": f"round-{n:02d}/{node}", "node": node, "facts": told} for node in nodes]}
        for n in range(1, count + 1)
    ]


def text(parts, width: int = 80) -> str:
    console = Console(width=width, highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    return captured.get()


def test_many_rounds_fit_and_keep_the_first_and_the_last():
    page = text(diagnostics.render(overview(12), 80))
    assert all(len(line.rstrip()) <= 80 for line in page.splitlines() if not line.startswith("without"))
    assert "round-01" in page and "round-12" in page and "without round-02" in page
    assert "0.75 !" in page and "50.0%" in page and "nested.a" in page
    assert diagnostics.render([{"name": "start", "steps": []}], 80) == [] == diagnostics.told([{"name": "start", "steps": []}])


def test_two_diagnoses_have_names_and_alarms_cannot_act():
    page = text(diagnostics.render(overview(1, ("own", "held_out")), 80))
    assert "own.longer_wins" in page and "held_out.longer_wins" in page
    assert "\x1b" not in text(diagnostics.told(overview(1))) and "round-01/diagnosis: longer_wins: \\x1b[31m" in text(
        diagnostics.told(overview(1))
    )


def test_a_diagnosis_takes_no_name_from_the_report_beside_it():
    done = [
        {"node": "report", "makes": "report", "facts": {"accuracy": 0.5}},
        {"node": "diagnosis", "makes": "report", "facts": {"longer_wins": 0.5, "alarms": []}},
    ]
    assert facts.metrics(done) == {"accuracy": "50.0%"}
    assert facts.line("report", {"mean_score_gap": 0.5, "alarms": ["a: b"]}) == "score gap 0.5, 1 alarm"


# Reporters.


def test_nothing_is_imported_unless_asked_for_and_profiles_keep_their_reporters(tmp_path):
    assert profile().reporters == ()
    asked = profile(reporters=["wandb", {"kind": "tensorboard", "folder": "here"}])
    again = Profile.model_validate(plain(asked))
    assert again == asked and [each.kind for each in again.reporters] == ["wandb", "tensorboard"]
    assert again.at("anything").reporters == asked.reporters
    code = "import sys, pipeline.run, reporters.wandb, reporters.mlflow, reporters.tensorboard\n"
    code += "assert not {'wandb', 'mlflow', 'tensorboard'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_reporter_without_its_library_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("reporters.find_spec", lambda name: None)
    for kind in plugin.names("reporters"):
        with pytest.raises(Refusal, match=f"{kind} is not installed; `pip install .*` *, or leave the reporter out"):
            run.run(small(), profile(reporters=[kind]), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def reported(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]


def test_each_round_is_told_once_when_it_is_finished(tmp_path):
    told = profile(reporters=[{"kind": "tests.support.plugins.tells", "folder": str(tmp_path)}])
    run.run(small(rounds=2), told, tmp_path / "r")
    assert [(name, rounds_) for name, rounds_, _ in reported(tmp_path)] == [("r", [0]), ("r", [1]), ("r", [2])]
    assert reported(tmp_path)[1][2] == [f"{node}/{name}" for node in ("loud", "words", "both") for name in ("rows", "shards")]
    assert run.run(small(rounds=2), told, tmp_path / "r") == [] and len(reported(tmp_path)) == 3
    run.run(small(rounds=3), told, tmp_path / "r", start_at="round-02/both")
    assert [rounds_ for _, rounds_, _ in reported(tmp_path)[3:]] == [[2], [3]]
    assert load(tmp_path / "r" / "profile.yaml").reporters == told.reporters


def test_a_reporter_that_fails_costs_a_warning_and_not_the_run(tmp_path, caplog):
    told = profile(reporters=[{"kind": "tests.support.plugins.tells", "folder": str(tmp_path / "missing")}])
    assert len(run.run(small(rounds=1), told, tmp_path / "r")) == 4
    assert ["start was not told to tests.support.plugins.tells" in caplog.text, "round-01 was not told to" in caplog.text] == [True, True]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    module = plugin.load("reporters", "tensorboard")
    config = module.Config(folder=str(tmp_path))
    module.check(config)
    for number in (0, 1):
        module.report(config, "demo", [row for row in ROWS if row.round == number])
    events = EventAccumulator(str(tmp_path / "demo")).Reload()
    assert set(events.Tags()["tensors"]) == {"report/accuracy", "pairs/dropped.a tie!"}
    series = [(each.step, each.tensor_proto.float_val[0]) for each in events.Tensors("report/accuracy")]
    assert series == [(0, 0.25), (1, 0.5)]
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="cannot be written"):
        module.report(module.Config(folder=str(tmp_path / "file")), "demo", ROWS)


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    module = plugin.load("reporters", "wandb")
    config = module.Config(mode="offline", folder=str(tmp_path))
    module.check(config)
    for number in (0, 1):
        module.report(config, "demo", [row for row in ROWS if row.round == number])
    wandb.teardown()  # as at the end of a process: its service may still be writing
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and all(file.name == "run-demo.wandb" for file in files)
    assert all(b"report/accuracy" in file.read_bytes() for file in files)
    assert sorted(b"pairs/dropped" in file.read_bytes() for file in files) == [False, True]


def test_mlflow_in_a_file(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    module = plugin.load("reporters", "mlflow")
    config = module.Config(tracking_uri=(tmp_path / "runs").as_uri())
    module.check(config)
    for number in (0, 1):
        module.report(config, "demo's", [row for row in ROWS if row.round == number])
    client = MlflowClient(tracking_uri=config.tracking_uri)
    found = client.search_runs([client.get_experiment_by_name("rematch").experiment_id])
    assert [each.info.run_name for each in found] == ["demo's"]
    history = client.get_metric_history(found[0].info.run_id, "report/accuracy")
    assert sorted((each.step, each.value) for each in history) == [(0, 0.25), (1, 0.5)]
    assert found[0].data.metrics["pairs/dropped.a tie_"] == 3.0
    with pytest.raises(Refusal, match="mlflow: .*check tracking_uri"):
        module.report(module.Config(tracking_uri="nothing://here"), "demo", ROWS)
