"""What a stage may ask for: maps by name, a shard's own folder, the tools of a plugin within it, needs that add up."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from judges import Group, Verdict
from pipeline import artifact, rows, run
from pipeline.placement import Placement, placement
from tests.support.core import profile, small
from tests.support.plugins import maps
from tests.support.steps import build, prompt, table, tools

MAPS = {"start__maps": {"stage": "tests.support.plugins.maps", "prompts": "words"}}
KILLED = """
import sys
from pathlib import Path
from pipeline import run
from tests.support.core import profile, small
maps = {"stage": "tests.support.plugins.maps", "prompts": "words", "die_at": sys.argv[2]}
run.run(small(rounds=0, start__maps=maps), profile(), Path(sys.argv[1]))
"""


def _prompts(path: Path):
    return table(path, "prompts", [{"id": str(n), "prompt": prompt("x" * n)} for n in range(10)])


def test_two_maps_in_a_step_do_not_share_their_shards(tmp_path):
    """The second one silently returned the rows of the first."""
    run.run(small(rounds=0, **MAPS), profile(), tmp_path)
    made = artifact.read(tmp_path / "start/maps")
    lengths = rows.read(made.path)["length"].to_pylist()
    assert made.manifest.facts["twice"] == 2 * made.manifest.facts["once"] == 2 * sum(lengths) > 0


def test_two_maps_to_one_folder_are_a_bug(tmp_path):
    given = tools(tmp_path / "x")
    source = _prompts(tmp_path / "prompts")
    work = partial(maps._measured, maps.Config(prompts="p"), 1)
    given.map(work, source, maps.TABLE)
    with pytest.raises(ValueError, match="twice; give each map a folder of its own"):
        given.map(work, source, maps.TABLE)
    with pytest.raises(ValueError, match="below neither"):
        given.map(work, source, maps.TABLE, tmp_path / "elsewhere")


def test_a_stage_has_a_table_of_its_own(tmp_path):
    made = build(tmp_path / "lengths", "tests.support.plugins.maps", {}, {"prompts": _prompts(tmp_path / "prompts")})
    assert rows.read(made.path).schema.remove_metadata() == maps.TABLE and rows.count(made.path) == 10


def test_what_a_shard_keeps_survives_a_kill_and_is_swept_when_the_shard_is_sealed(tmp_path):
    flag, folder = tmp_path / "die", tmp_path / "run"
    flag.touch()
    call = [sys.executable, "-c", KILLED, str(folder), str(flag)]
    assert subprocess.run(call, capture_output=True, cwd=Path(__file__).parents[2]).returncode == -9
    [journal] = folder.glob("start/.maps.*/work/shards/work-twice/*.work/journal")
    run.run(small(rounds=0, start__maps={**MAPS["start__maps"], "die_at": str(flag)}), profile(), folder)
    assert artifact.read(folder / "start/maps").manifest.facts["went_on"] == 1 and not journal.exists()


def test_sealing_a_shard_sweeps_its_folder(tmp_path):
    given = tools(tmp_path / "x")
    given.map(partial(maps._measured, maps.Config(prompts="p"), 1), _prompts(tmp_path / "prompts"), maps.TABLE)
    assert list(given.work.glob("shards/out/rows-*.parquet")) and not list(given.work.glob("shards/out/*.work"))


def test_tools_of_a_plugin_know_its_fields_alone():
    given = tools(Path("/tmp/never"), inputs={"model": ("m",), "judge.model": ("j",), "judge.judges.0.model": ("k",)})
    assert given.of("judge").inputs == {"model": ("j",), "judges.0.model": ("k",)}
    inner = given.of("judge").of("judges.0")
    assert inner.inputs == {"model": ("k",)} and inner.within == "judge.judges.0" and inner.address == given.address


def test_two_judges_in_one_stage_under_any_field_names(tmp_path):
    """A judge asks for the model of its own field, wherever the stage keeps it."""
    source = table(tmp_path / "candidates", "candidates", [{"id": "a", "prompt": prompt("?"), "responses": []}])
    made = build(
        tmp_path / "both",
        "tests.support.plugins.two_judges",
        {
            "strict": {"kind": "tests.support.plugins.named", "model": "one"},
            "kind_one": {"kind": "tests.support.plugins.named", "model": "two"},
        },
        {"candidates": source, "strict.model": _prompts(tmp_path / "one"), "kind_one.model": _prompts(tmp_path / "two")},
    )
    assert made.manifest.facts == {"strict": "one", "kind_one": "two", "rows": 1}


def test_needs_add_up():
    """An engine and forward passes in one worker: what each takes, and no more workers than both have."""
    made = profile(engine={"kind": "tests.support.plugins.grader"}, forward={"replicas": 1, "cpus": 2.0, "gpu_fraction": 0.25})
    engine = placement(made, {"engine"})
    assert placement(made, {"forward"}) == Placement(1, 0.25, 2.0)
    assert placement(made, {"engine", "forward"}) == Placement(1, engine.gpus + 0.25, engine.cpus + 2.0)
    both = profile(engine={"kind": "vllm", "replicas": 4}, forward={"replicas": 8, "gpu_fraction": 0.25})
    assert placement(both, {"engine", "forward"}) == Placement(4, 2, 2.0), "above one GPU only whole ones can be had"
    assert placement(profile(workers=3), frozenset()) == Placement(3)


def test_a_group_holds_what_was_said_of_it():
    assert Group("g", (), ("a",), {}).verdict is None
    assert Group("g", (), ("a",), {}, verdict=Verdict((1.0,))).verdict.scores == (1.0,)
