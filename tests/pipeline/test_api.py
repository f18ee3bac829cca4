"""The Python API: what `import pipeline` offers is what docs/python.md lists, and it works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pipeline
from pipeline.profile import plain
from tests.support.core import BODY, profile, small
from tests.support.tiny_recipes import tiny

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()


def test_the_page_lists_every_public_name_with_an_example():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| `(.+)` \|$", PAGE, re.M)
    assert sorted(name for name, _, _ in rows) == sorted(pipeline.__all__)
    for _, _, example in rows:
        if not example.startswith("except"):
            compile(example, "docs/python.md", "eval")
        for name in re.findall(r"pipeline\.(\w+)", example):
            assert name in pipeline.__all__


def test_no_public_name_is_a_module_and_none_is_missing():
    modules = {path.stem for path in (ROOT / "pipeline").iterdir()}
    assert not modules.intersection(pipeline.__all__)
    assert all(getattr(pipeline, name) is not None for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = pipeline.runn


def test_importing_it_is_light():
    code = (
        "import sys, time\nbegan = time.perf_counter()\nimport pipeline\nprint(time.perf_counter() - began)\npipeline.run_recipe\n"
        "print([name for name in ('torch', 'ray', 'vllm', 'transformers', 'datasets', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, heavy = done.stdout.splitlines()
    assert float(seconds) < 0.3 and heavy == "[]"


def test_a_recipe_and_a_profile_come_as_name_path_data_or_object(tmp_path):
    (tmp_path / "core.yaml").write_text(yaml.safe_dump(BODY, sort_keys=False))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(plain(profile())))
    recipes = (BODY, small(), tmp_path / "core.yaml", str(tmp_path / "core.yaml"))
    profiles = (plain(profile()), profile(), tmp_path / "test.yaml", str(tmp_path / "test.yaml"))
    keys = {tuple(s.key for s in pipeline.plan_recipe(r, profile=p, rounds=1)) for r, p in zip(recipes, profiles, strict=True)}
    assert len(keys) == 1 and len(keys.pop()) == 4
    assert pipeline.plan_recipe("demo") and pipeline.load_profile("laptop", {"reuse": "none"}).reuse == "none"
    assert pipeline.load_profile(profile(), {"rows_per_shard": 9}).rows_per_shard == 9
    with pytest.raises(pipeline.Refusal, match="did you mean 'demo'"):
        pipeline.plan_recipe("demoo")
    with pytest.raises(pipeline.Refusal, match="profile: enginee: .*|no field 'enginee'"):
        pipeline.load_profile({**plain(profile()), "enginee": 1})


def test_what_the_commands_do(tmp_path):
    folder = tmp_path / "x"
    built = pipeline.run_recipe(BODY, profile=profile(), folder=str(folder), rounds=1)
    assert built == ["start/words", "round-01/loud", "round-01/words", "round-01/both"]
    assert {each.state for each in pipeline.status(folder).values()} == {"done"}
    assert pipeline.read(folder, "round-01/loud", ["id"]).num_rows == pipeline.facts(folder, "round-01/loud")["rows"] == 20
    assert [event["kind"] for event in pipeline.read_events(folder)][-1] == "ended"
    assert pipeline.run_recipe(folder, rounds=2) == ["round-02/loud", "round-02/words", "round-02/both"], "a run's own recipe and profile"
    assert pipeline.build_step(folder, "round-02/both").path == folder / "round-02/both"
    shared = pipeline.fork_run(folder, tmp_path / "y", at=2, changes={"round.loud.suffix": "x"})
    assert "round-01/loud" in shared and "round-02/loud" not in shared
    for address, sentence in (("round-09/x", "no round"), ("round-01", "is a whole round"), ("round-01/nope", "no node")):
        with pytest.raises(pipeline.Refusal, match=sentence):
            pipeline.read(folder, address)


def test_a_sweep(tmp_path):
    values = {"round.loud.suffix": ["a", "b"], "seed": [0, 1]}
    found = pipeline.sweep_recipe(BODY, values, profile=profile(reuse="siblings"), folder=tmp_path / "s", rounds=1)
    assert [each.folder.name for each in found] == [f"suffix-{s}-seed-{n}" for s in "ab" for n in (0, 1)]
    assert all(each.error is None for each in found) and "round-01/words" not in found[2].built
    with pytest.raises(pipeline.Refusal, match="seed: names no value"):
        pipeline.sweep_recipe(BODY, {"seed": []}, profile=profile(), folder=tmp_path / "t")


def test_the_example_of_the_page_and_the_readme_runs(tmp_path, monkeypatch, capsys):
    """As it is written, over the demo at the size of a test."""
    from pipeline import recipe as recipes

    (example,) = re.findall(r"```python\n(import pipeline\n.+?)```", PAGE, re.S)
    assert example in (ROOT / "README.md").read_text()
    small_demo = tmp_path / "demo.yaml"
    small_demo.write_text(yaml.safe_dump(tiny("demo", 3, tmp_path).model_dump(mode="json"), sort_keys=False))
    real = recipes.find
    monkeypatch.setattr(recipes, "find", lambda name, folder: small_demo if (name, folder) == ("demo", "recipes") else real(name, folder))
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    rows, accuracy = capsys.readouterr().out.splitlines()[-1].split()
    assert int(rows) == pipeline.facts("runs/mine", "round-01/pairs")["rows"] and 0 <= float(accuracy) <= 1
    beta = pipeline.open_artifact("runs/mine", "round-01/policy").manifest.identity["settings"]["objective"]["beta"]
    told = [event for event in pipeline.read_events("runs/mine") if event["kind"] == "trained" and event["address"] == "round-01/policy"]
    assert beta == 0.2 and [event["step"] for event in told] == list(range(1, told[0]["of"] + 1)) and all(event["loss"] for event in told)
