"""The command line as a user meets it: what it prints, where, and how it ends. No model is loaded: the engine is canned."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline import cli, run
from tests.support.canned_run import finish, lay_out

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "vllm", "ray", "deepspeed", "transformers", "datasets", "pandas")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a finished run, shared by the tests that only read it."""
    place = tmp_path_factory.mktemp("made")
    lay_out(place)
    finish(place)
    return place


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "80")
    return made


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def said(capsys, *arguments, code=0):
    """Run a command line, check how it ended, and return stdout and stderr."""
    capsys.readouterr()
    got = cli.call(list(arguments))
    out, err = capsys.readouterr()
    assert got == code, f"exit code {got}\n{out}\n{err}"
    return out, err


def data(capsys, *arguments, code=0):
    return json.loads(said(capsys, *arguments, "--json", code=code)[0])


def started(*arguments, cwd, **env):
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **env}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        cwd=cwd,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# What each command says.


def test_run_says_each_step_and_the_round_and_where_to_look(fresh, capsys):
    out, err = said(capsys, "run", "tiny.yaml", "-p", "test.yaml")
    lines = out.splitlines()
    steps = [line.split()[0] for line in lines if line.startswith(("start/", "round-"))]
    assert steps[:6] == ["start/policy", "start/prompts", "round-01/candidates", "round-01/judged", "round-01/pairs", "round-01/report"]
    assert next(line for line in lines if line.startswith("round-01/candidates")).endswith("30 samples, " + _length(lines))
    assert "rematch show runs/tiny round-02" in out and "10 steps built" in out
    # The table stands after round 1 and at the end.
    assert sum(line.startswith("round-01 ") for line in lines) == 2 and sum(line.startswith("round-02 ") for line in lines) == 1
    assert "\x1b" not in out and "\r" not in out and err == ""
    assert max(len(line) for line in lines if not line.startswith(("start/", "round-0"))) <= 80


def _length(lines):
    return next(line for line in lines if line.startswith("round-01/candidates")).split("samples, ")[1]


def test_run_as_json_keeps_stdout_to_json(fresh, capsys):
    out, err = said(capsys, "run", "tiny.yaml", "-p", "test.yaml", "--rounds", "1", "--json")
    told = json.loads(out)
    assert len(told["built"]) == 6 and [each["name"] for each in told["rounds"]] == ["start", "round-01"]
    assert told["rounds"][1]["steps"][0]["facts"]["responses"] == 30
    assert "round-01/candidates" in err


def test_a_run_folder_goes_on_with_its_own_recipe_and_profile(fresh, capsys):
    said(capsys, "run", "tiny.yaml", "-p", "test.yaml", "--rounds", "1", "--set", "round.candidates.n=2", "--run", "other")
    told = data(capsys, "run", "runs/other", "--rounds", "2")
    assert told["built"] == ["round-02/candidates", "round-02/judged", "round-02/pairs", "round-02/report"]
    assert told["rounds"][2]["steps"][0]["facts"]["responses"] == 20
    assert told["profile"] == "test"
    assert data(capsys, "run", "runs/other")["built"] == []


def test_from_builds_again_that_part_and_its_readers(fresh, capsys):
    said(capsys, "run", "tiny.yaml", "-p", "test.yaml")
    would = data(capsys, "plan", "runs/tiny", "--from", "round-02/judged")
    told = data(capsys, "run", "runs/tiny", "--from", "round-02/judged")
    assert told["built"] == would["to_build"] == ["round-02/judged", "round-02/pairs"]


def test_settings_of_the_profile(fresh, capsys):
    said(
        capsys,
        "run",
        "tiny.yaml",
        "-p",
        "test.yaml",
        "--rounds",
        "0",
        "--set",
        "profile.engine.max_words=3",
        "-s",
        "profile.forward.replicas=2",
    )
    recorded = yaml.safe_load(Path("runs/tiny/profile.yaml").read_text())
    assert recorded["engine"]["max_words"] == 3 and recorded["forward"]["replicas"] == 2


def test_plan_counts_what_is_there_and_guesses_the_rest(here, capsys):
    told = data(capsys, "plan", "runs/tiny", "--rounds", "3")
    assert told["to_build"] == ["round-03/candidates", "round-03/judged", "round-03/pairs", "round-03/report"]
    assert told["estimate"] == {"tokens": 10 * 3 * 64, "pairs": 10}
    out, _ = said(capsys, "plan", "tiny.yaml", "-p", "test.yaml", "--run", "new", "--set", "seed=3")
    assert "10 of 10 steps would run" in out
    assert "rematch run tiny.yaml --profile test.yaml --run new --set seed=3" in out
    assert not Path("runs/new").exists()


def test_plan_as_a_graph(here, capsys):
    out, _ = said(capsys, "plan", "runs/tiny", "--graph", "--rounds", "1")
    assert out.splitlines() == [
        "start",
        "|-- policy      adopt",
        "`-- prompts     prompts",
        "round-01",
        "|-- candidates  generate  <-- start/policy, start/prompts",
        "|-- judged      judge     <-- candidates",
        "|-- pairs       pair      <-- judged",
        "`-- report      evaluate  <-- candidates",
    ]


def test_plan_names_what_makes_a_run_stale(here, capsys):
    out, _ = said(capsys, "plan", "runs/tiny", "--set", "round.judged.judge.prefer=shorter")
    assert "round-01/judged: judge.prefer: (default) -> 'shorter'" in out
    assert "Nothing would run" in out


def test_status_of_a_finished_run(here, capsys):
    out, _ = said(capsys, "status", "tiny")
    grid = [line.split() for line in out.splitlines()]
    assert ["candidates", "done", "done"] in grid and ["policy", "done"] in grid
    assert "rematch show runs/tiny" in out
    assert data(capsys, "status", "runs/tiny")["counts"] == {"done": 10}


def test_status_of_a_run_that_was_killed_half_way(fresh, capsys):
    """Shards of an unfinished step are counted, and the run that goes on does only the others."""
    words = {"stage": "tests.support.plugins.words", "take": 10}
    body = {"name": "tiny", "rounds": 0, "start": {"words": words, "loud": {"stage": "tests.support.plugins.shout", "prompts": "words"}}}
    Path("kill.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    Path("kill").mkdir()
    Path("kill/start.loud.p000009").touch()
    process = started("run", "kill.yaml", "-p", "test.yaml", cwd=fresh, REMATCH_TEST_KILL=str(fresh / "kill"))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    out, _ = said(capsys, "status", "tiny")
    assert "begun 2/3" in out and "rematch run runs/tiny" in out
    assert data(capsys, "run", "runs/tiny")["built"] == ["start/loud"]


def test_status_says_who_holds_a_run(fresh, capsys):
    said(capsys, "run", "tiny.yaml", "-p", "test.yaml", "--rounds", "0")
    assert data(capsys, "status", "tiny")["held_by"] is None
    with run.locked(Path("runs/tiny")):
        told = data(capsys, "status", "tiny")
        assert told["held_by"]["pid"] == os.getpid()
        assert f"process {os.getpid()}" in said(capsys, "status", "tiny")[0]
    with Path("runs/tiny/LOCK").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # asking left no lock behind


def test_show_goes_from_the_run_to_a_row(here, capsys):
    out, _ = said(capsys, "show", "tiny")
    assert "round-02" in out and "rematch show runs/tiny round-02/pairs" in out
    assert "best_vs_worst" in said(capsys, "show", "tiny", "2/pairs", "--rows", "0")[0]
    out, _ = said(capsys, "show", "runs/tiny/round-01")
    assert "candidates" in out and "30 samples" in out
    told = data(capsys, "show", "runs/tiny/round-02", "pairs", "--rows", "2")
    assert len(told["rows"]) == 2 and told["table"] == "pairs"
    wanted = told["rows"][1]
    out, _ = said(capsys, "show", "runs/tiny/round-02/pairs", "--id", wanted["prompt_id"])
    assert wanted["id"] in out and wanted["chosen"][0]["content"].split()[0] in out and told["rows"][0]["id"] not in out


def test_best_and_worst_rows_are_those_with_the_largest_and_smallest_gap(here, capsys):
    def gap(row):
        return row["chosen_score"] - row["rejected_score"]

    every = sorted(gap(row) for row in data(capsys, "show", "tiny", "round-01/pairs", "--rows", "100")["rows"])
    assert [gap(row) for row in data(capsys, "show", "tiny", "round-01/pairs", "--best", "2")["rows"]] == every[-1:-3:-1]
    assert [gap(row) for row in data(capsys, "show", "tiny", "round-01/pairs", "--worst", "2")["rows"]] == every[:2]


def test_diff_of_two_rounds_and_of_two_runs(fresh, capsys):
    said(capsys, "run", "tiny.yaml", "-p", "test.yaml")
    said(capsys, "fork", "tiny", "short", "--at", "round-02", "--set", "round.judged.judge.prefer=shorter")
    said(capsys, "run", "runs/short")
    told = data(capsys, "diff", "tiny", "short")
    assert told["settings"] == ["round.judged.judge.prefer: (default) -> {'by_round': [None, 'shorter']}"]
    changed = next(each for each in told["nodes"] if each["right"] == "round-02/pairs")
    # The same candidates, judged the other way round: every pair is flipped, where ties do not pick another text.
    assert changed["pairs"]["flipped"] > 0 and changed["pairs"]["same"] == changed["pairs"]["added"] == 0
    assert next(each for each in told["nodes"] if each["left"] == "round-01/pairs")["same"]
    assert "flipped" in said(capsys, "diff", "tiny", "short")[0]
    assert "candidates -> round-02/candidates" in said(capsys, "diff", "runs/tiny/round-01", "runs/tiny/round-02")[0]


def test_fork_tells_what_is_shared_and_what_is_left(fresh, capsys):
    said(capsys, "run", "tiny.yaml", "-p", "test.yaml")
    out, _ = said(capsys, "fork", "tiny", "new", "--at", "2", "--set", "round.judged.judge.unit=words")
    assert "round-02: judged, pairs\n" in out and "round-02: candidates, report\n" in out and "rematch run runs/new" in out
    assert data(capsys, "run", "runs/new")["built"] == ["round-02/judged", "round-02/pairs"]
    _, err = said(capsys, "fork", "tiny", "slip", "--at", "2", "--set", "round.judged.jugde=length", code=2)
    assert "did you mean 'judge'" in err and not Path("runs/slip").exists()


def test_verify_finds_a_changed_byte(fresh, capsys):
    said(capsys, "run", "tiny.yaml", "-p", "test.yaml")
    assert "10 artifacts are byte for byte" in said(capsys, "verify", "tiny")[0]
    file = Path("runs/tiny/round-01/pairs/data-00000.parquet")
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)
    assert data(capsys, "verify", "tiny", code=2)["counts"] == {"done": 9, "corrupt": 1}
    assert "rematch retire runs/tiny round-01/pairs" in said(capsys, "verify", "tiny", code=2)[0]
    said(capsys, "retire", "tiny", "round-01/pairs")
    assert data(capsys, "run", "runs/tiny")["built"] == ["round-01/pairs"]
    said(capsys, "verify", "tiny")


def test_retire_moves_rounds_and_steps_and_deletes_nothing(fresh, capsys):
    said(capsys, "run", "tiny.yaml", "-p", "test.yaml")
    told = data(capsys, "retire", "tiny", "round-02", "round-01/report")
    assert sorted(told["moved"]) == ["round-01/report", *(f"round-02/{node}" for node in ("candidates", "judged", "pairs", "report"))]
    assert len(list(Path("runs/tiny/attic").glob("*/round-02/pairs/manifest.json"))) == 1
    assert "Nothing was there" in said(capsys, "retire", "tiny", "round-02")[0]


def test_export_writes_jsonl_or_a_folder_once(here, capsys, tmp_path):
    told = data(capsys, "export", "tiny", "round-02/pairs", "--to", str(tmp_path / "pairs.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(lines) == told["rows"] and lines[0]["chosen"][0]["role"] == "assistant"
    said(capsys, "export", "runs/tiny/round-02/pairs", "--to", str(tmp_path / "folder"))
    assert (tmp_path / "folder/data/train-00000-of-00001.parquet").exists() and "data/train-*.parquet" in (
        tmp_path / "folder/README.md"
    ).read_text()
    for to in ("pairs.jsonl", "folder"):
        assert "exists already" in said(capsys, "export", "tiny", "round-02/pairs", "--to", str(tmp_path / to), code=2)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pairs.jsonl"]


def test_plugins_and_schema(here, capsys):
    assert {each["kind"] for each in data(capsys, "plugins", "judges")} >= {"length", "pairrm"}
    assert "best_vs_worst" in said(capsys, "plugins")[0]
    assert "round.generate" in json.loads(said(capsys, "schema")[0])["$defs"]
    assert "engines.canned" in json.loads(said(capsys, "schema", "profile")[0])["$defs"]
    assert said(capsys, "schema", "--markdown")[0].startswith("# Recipe reference")


# What it refuses: one sentence, exit code 2, no traceback.

REFUSALS = {
    "recipe": (["run", "demoo"], "no recipe 'demoo'; did you mean 'demo'?"),
    "file": (["run", "none.yaml"], "none.yaml: there is no such file"),
    "no run": (["status", "tinny"], "tinny: is not a run; runs here: runs/tiny"),
    "no such round": (["show", "tiny", "round-09"], "round-09: no round 'round-09'; did you mean"),
    "no such node": (["show", "tiny", "round-01/pears"], "round-01/pears: no node 'pears'; did you mean 'pairs'?"),
    "from": (["run", "runs/tiny", "--from", "round-09"], "--from round-09: the recipe has no such round or step"),
    "set": (["plan", "runs/tiny", "--set", "round.pairs"], "--set round.pairs: has no '='"),
    "set profile": (["plan", "runs/tiny", "--set", "profile.engines.x=1"], "--set profile.engines.x=1: no entry under the top: 'engines'"),
    "profile field": (["plan", "runs/tiny", "--set", "profile.engine.max_wrds=1"], "no field 'max_wrds'; did you mean 'max_words'?"),
    "profile": (["plan", "tiny.yaml", "--profile", "lapotp"], "no profile 'lapotp'; did you mean 'laptop'?"),
    "rows of a model": (["show", "tiny", "round-01/candidates", "--id", "zz"], "none of its 10 rows has an id that starts with 'zz'"),
    "ranked prompts": (["show", "tiny", "start/prompts", "--best", "1"], "its rows have no scores"),
    "diff of unlike": (["diff", "tiny", "runs/tiny/round-01"], "one is a run and the other a round"),
    "diff of artifacts": (["diff", "runs/tiny/round-01/pairs", "tiny"], "is one artifact"),
    "fork over": (["fork", "tiny", "tiny", "--at", "2"], "runs/tiny: exists already"),
    "fork at start": (["fork", "tiny", "new", "--at", "start"], "--at start: a fork changes from a whole round on"),
    "fork profile": (["fork", "tiny", "new", "--at", "2", "--set", "profile.workers=2"], "a fork changes the recipe"),
    "retire": (["retire", "tiny", "round-01/pear"], "no node 'pear'; did you mean 'pairs'?"),
    "plugins": (["plugins", "judge"], "did you mean 'judges'?"),
    "schema": (["schema", "recipes"], "say recipe or profile"),
    "export what": (["export", "tiny", "round-01", "--to", "x.jsonl"], "names no artifact"),
    "export model": (["export", "tiny", "start/policy", "--to", "x.jsonl"], "holds files and no rows"),
    "export to nowhere": (["export", "tiny", "round-01/pairs", "--to", "no/where.jsonl"], "the folder no is not there"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, here, capsys):
    arguments, sentence = REFUSALS[case]
    out, err = said(capsys, *arguments, code=2)
    assert sentence in err and err.startswith("rematch: ") and "Traceback" not in err and out == ""


def test_all_problems_of_a_recipe_at_once_one_a_line(here, capsys):
    _, err = said(
        capsys, "plan", "runs/tiny", "--set", "round.pairs.rule.kind=best_vs_wurst", "--set", "round.judged.candidates=candidate", code=2
    )
    lines = err.splitlines()
    assert any("did you mean 'best_vs_worst'?" in line for line in lines) and any("did you mean 'candidates'?" in line for line in lines)
    assert all(line.startswith("rematch: round-01/") for line in lines)


def test_a_stale_run_is_refused_and_named(fresh, capsys):
    said(capsys, "run", "tiny.yaml", "-p", "test.yaml")
    _, err = said(capsys, "run", "runs/tiny", "--set", "seed=5", code=2)
    assert "seed: 0 -> 5" in err and "nothing was run" in err


def test_unknown_commands_and_options_are_refused(capsys):
    assert "No such command" in said(capsys, "rum", code=2)[1]
    assert "No such option" in said(capsys, "status", "--jsn", "x", code=2)[1]


# How it ends, as a process.


def test_exit_codes_of_the_real_process(here, tmp_path):
    (tmp_path / "broken.py").write_text(
        '"""A stage with a bug."""\nfrom pipeline.plugin import Settings\nVERSION = 1\nMAKES = "prompts"\n'
        "class Config(Settings):\n    pass\ndef run(config, tools):\n    return {}['rows']\n"
    )
    body = {"name": "bug", "rounds": 0, "start": {"words": {"stage": "some.broken"}}}
    (tmp_path / "some").mkdir()
    (tmp_path / "broken.py").rename(tmp_path / "some" / "broken.py")
    (tmp_path / "bug.yaml").write_text(yaml.safe_dump(body))
    ends = {}
    for name, arguments in {
        "fine": ["status", "runs/tiny"],
        "refusal": ["status", "nothing"],
        "usage": ["status"],
        "bug": ["run", str(tmp_path / "bug.yaml"), "-p", str(here / "test.yaml"), "--runs", str(tmp_path)],
    }.items():
        process = started(*arguments, cwd=here, PYTHONPATH=f"{ROOT}:{tmp_path}")
        out, err = process.communicate(timeout=60)
        ends[name] = process.returncode
        assert ("Traceback" in err) == (name == "bug"), err
        if name == "bug":
            assert "KeyError: 'rows'" in err and err.splitlines()[-1].startswith("rematch: this is a bug")
    assert ends == {"fine": 0, "refusal": 2, "usage": 2, "bug": 1}


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_runs_say_how_to_go_on(number, code, tmp_path, capsys, monkeypatch):
    lay_out(tmp_path)
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "stage.py").write_text(
        '"""A stage that sleeps."""\nimport time\nfrom pipeline.plugin import Settings\nVERSION = 1\nMAKES = "prompts"\n'
        "class Config(Settings):\n    pass\n"
        "def run(config, tools):\n    tools.report(tools.address, 0, 1)\n    time.sleep(60)\n"
    )
    words = {"stage": "tests.support.plugins.words"}
    body = {"name": "slow", "rounds": 0, "start": {"words": words, "nap": {"stage": "slow.stage"}}}
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    process = started("run", "slow.yaml", "-p", "test.yaml", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert process.stdout.readline().startswith("start/words")
    until = time.monotonic() + 30
    while not list(tmp_path.glob("runs/slow/start/.nap.*")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == "rematch: interrupted; finished parts are kept. `rematch run runs/slow` goes on.\n"
    assert (tmp_path / "runs/slow/start/words/manifest.json").exists()


def test_a_reader_that_goes_away_makes_no_noise(here):
    command = f"{sys.executable} -m pipeline.cli schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], cwd=here, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == "{" and done.stderr == ""


@pytest.mark.parametrize(
    "command, tables", [("--help", False), ("run --help", False), ("status runs/tiny", None), ("plan runs/tiny", None)]
)
def test_help_status_and_plan_load_nothing_heavy(command, tables, here):
    """`tables` is whether pyarrow may be loaded; None where the stages that are planned bring it."""
    code = f"from pipeline import cli; import sys; cli.call(sys.argv[1:]); print([n for n in {(*HEAVY, 'pyarrow')!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1].replace("'", '"')) in ([[]] if tables is False else [[], ["pyarrow"]])


def test_help_is_instant():
    """A ratio, because the machine is shared: help costs the interpreter's own start many times over, but boundedly so."""

    def fastest(*command):
        times = []
        for _ in range(5):
            before = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            times.append(time.perf_counter() - before)
        return min(times)

    assert fastest(sys.executable, "-m", "pipeline.cli", "--help") < 60 * fastest(sys.executable, "-c", "pass")


def test_every_command_teaches_with_an_example(capsys):
    for command in ("run", "plan", "status", "show", "diff", "fork", "verify", "retire", "plugins", "schema", "export"):
        out, _ = said(capsys, command, "--help")
        assert f"Example: `rematch {command}" in " ".join(out.split()), command
