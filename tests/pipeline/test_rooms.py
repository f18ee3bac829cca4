"""A user's modules that have the names of our rooms, beside a recipe or on PYTHONPATH, do not stand in for ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import plugin

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("on_path", [True, False], ids=["PYTHONPATH", "current directory"])
def test_our_rooms_are_found_first(tmp_path, on_path):
    for name in ("stages", "rules", "metrics", "models", "training"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "mine.py").write_text("")
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "__init__.py").write_text("raise RuntimeError('not this one')")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*([str(tmp_path)] if on_path else []), str(ROOT)])}
    call = [sys.executable, "-m", "pipeline.cli", "plan", "demo"]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=elsewhere if on_path else tmp_path)
    assert done.returncode == 0 and "round-03/diagnosis" in done.stdout, done.stderr


def test_a_room_that_was_imported_already_is_named(tmp_path):
    (tmp_path / "models.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", "import models, pipeline"], capture_output=True, text=True, env=environment, cwd=tmp_path)
    says = (
        f"ImportError: {tmp_path}/models.py: was imported as 'models', a name that rematch needs; rename it, or import pipeline before it"
    )
    assert done.stderr.splitlines()[-1] == says


def test_processes_that_we_start_find_our_pipeline(tmp_path):
    """A gang of one rank, whose parent has another `pipeline` earlier on its path and where it stands."""
    (tmp_path / "pipeline.py").write_text("raise RuntimeError('not this one')")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pipeline; sys.path.remove({str(ROOT)!r}); sys.path.append({str(ROOT)!r})\n"
        "import os; from pathlib import Path; from pipeline.executors import _gang; from pipeline.tools import Placement\n"
        "print(_gang.run(os.getpid, (), Placement(1), Path('work'))[0] != os.getpid())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout == "True\n", done.stderr


def test_a_folder_without_an_init_is_no_plugin(tmp_path, monkeypatch):
    import judges

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "parts.py").write_text("")
    (tmp_path / "mylab").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(judges, "__path__", [*judges.__path__, str(tmp_path)])
    (tmp_path / "mylab" / "judge").mkdir()
    for kind, folder in (("mine", "mine"), ("mylab.judge", "mylab/judge")):
        with pytest.raises(ValueError, match=f"^the folder {tmp_path}/{folder} has no __init__.py, so it is no plugin; add one"):
            plugin.load("judges", kind)


@pytest.mark.parametrize("name", ["pipeline.py", "pipeline/__init__.py", "stages.py", "models.py"])
def test_the_command_finds_our_pipeline_whatever_is_on_the_path(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('this is not ours')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    call = [sys.executable, "-c", "import rematch, sys; sys.argv = ['rematch', 'plan', 'demo', '--json']; rematch.main()"]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["steps"], done.stderr
