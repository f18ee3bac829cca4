"""What recipes may leave out: one reader of YAML, a recipe over another one, a value that is said once."""

import shlex

import pytest
import yaml

from pipeline import cli, document, recipe
from pipeline import profile as profiles
from pipeline.errors import Refusal
from pipeline.patch import patched
from pipeline.plan import plan
from tests.support.core import profile


@pytest.mark.parametrize(
    "text, value",
    [
        ("on", "on"), ("no", "no"), ("y", "y"), ("true", True), ("False", False), ("~", None), ("1e-6", 1e-6), ("1.5e3", 1500.0),
        ("010", 10), ("0o10", 8), ("0x1f", 31), ("1_000", "1_000"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("=", "="),
        ("{on: 1, n: 2}", {"on": 1, "n": 2}),
        ("{a: &a {k: 1, j: 2}, b: {<<: *a, k: 3}, c: *a}", {"a": {"k": 1, "j": 2}, "b": {"k": 3, "j": 2}, "c": {"k": 1, "j": 2}}),
    ],
)  # fmt: skip
def test_plain_values_are_yaml_1_2_and_come_back_as_they_were_written(text, value):
    read = document.parse(text, "here", "is not YAML", "mend it")
    assert read == value and type(read) is type(value)
    again = document.parse(document.written({"x": value}), "here", "", "")["x"]
    assert again == value and type(again) is type(value)
    kept = document.parse(document.written({"x": text}), "here", "", "")["x"]
    assert kept == text, "text that looks like a number stays text"


@pytest.mark.parametrize(
    "text, key, lines",
    [
        ("a: 1\nb: 2\na: 3\n", "a", (1, 3)),
        ("round:\n  pairs:\n    k: 1\n    k: 2\n", "k", (3, 4)),
        ("r: [{x: {k: 1,\n  k: 2}}]\n", "k", (1, 2)),
    ],
)
def test_a_duplicate_key_is_refused_with_both_lines(tmp_path, text, key, lines):
    """The first of two nodes, settings or profile sections of one name was dropped silently."""
    (tmp_path / "twice.yaml").write_text(text)
    for read in (recipe.read, profiles.load):
        with pytest.raises(Refusal) as refused:
            read(tmp_path / "twice.yaml")
        assert f"'{key}'" in str(refused.value) and all(f"line {line}" in str(refused.value) for line in lines)


def test_an_alias_is_a_copy_and_few_lines_cannot_ask_for_billions():
    body = document.parse("{a: &a {k: 1}, b: *a}", "here", "", "")
    assert recipe.set_value(body, "a.k=2") == {"a": {"k": 2}, "b": {"k": 1}}
    laughs = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    with pytest.raises(Refusal, match="holds more than 100,000 values once its aliases are written out"):
        document.parse(laughs, "here", "", "")
    with pytest.raises(Refusal, match="nested too deeply"):
        document.parse("[" * 5000, "here", "is not YAML", "mend it")


def test_a_patch_merges_replaces_removes_and_finds_its_place():
    base = {
        "seed": 1,
        "round": {
            "pairs": {"stage": "pair", "rule": {"kind": "margin", "own_gap": 1}},
            "last": {"stage": "logprobs", "model": "m"},
            "policy": {"stage": "train", "reference": "last", "objective": {"kind": "dpo", "beta": 0.1}, "epochs": {"by_round": [1, 2]}},
        },
    }
    patch = {
        "round": {
            "pairs": {"rule": {"kind": "tournament"}},
            "last": {"stage": {"by_round": [None, "logprobs"]}},
            "more": {"stage": "mismatch", "rows": "pairs"},
            "policy": {"reference": None, "extra": ["more"], "objective": {"beta": 0.2}, "epochs": {"by_round": [3]}, "labels": None},
        }
    }
    whole = patched(base, patch)
    assert list(whole["round"]) == ["pairs", "last", "more", "policy"], "a new node stands before what reads it"
    assert whole["seed"] == 1 and whole["round"]["pairs"]["rule"] == {"kind": "tournament"}
    assert whole["round"]["last"] == {"stage": {"by_round": [None, "logprobs"]}, "model": "m"}
    objective = {"kind": "dpo", "beta": 0.2}
    policy = {"stage": "train", "extra": ["more"], "objective": objective, "epochs": {"by_round": [3]}, "labels": None}
    assert whole["round"]["policy"] == policy, "null takes away what was there, and is null where nothing was"


def test_a_recipe_over_another_is_recorded_whole_and_its_values_can_be_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    core = {
        "name": "core", "rounds": 2, "values": {"end": "!"},
        "start": {"words": {"stage": "tests.support.plugins.words", "take": 4}},
        "round": {"loud": {"stage": "tests.support.plugins.shout", "prompts": "words", "suffix": "$end"}},
    }  # fmt: skip
    (tmp_path / "core.yaml").write_text(yaml.safe_dump(core, sort_keys=False))
    (tmp_path / "mine.yaml").write_text("name: mine\nextends: core.yaml\nvalues: {end: '?'}\n")
    (tmp_path / "p.yaml").write_text("name: test\nengine: canned\ntrainer: tests.support.plugins.idle\n")
    assert cli.call(shlex.split("run mine.yaml -p p.yaml")) == 0
    recorded = yaml.safe_load((tmp_path / "runs/mine/recipe.yaml").read_text())
    assert recorded == {**core, "name": "mine", "seed": 0, "values": {"end": "?"}}
    capsys.readouterr()
    assert cli.call(shlex.split("plan mine.yaml -p p.yaml --yaml")) == 0
    assert yaml.safe_load(capsys.readouterr().out) == recorded
    assert cli.call(shlex.split("fork mine forked --at round-02 --set values.end=.")) == 0
    forked = plan(recipe.load(tmp_path / "runs/forked/recipe.yaml"), profile())
    assert [step.config.suffix for step in forked if step.node == "loud"] == ["?", "."]
    here = recipe.load(tmp_path / "mine.yaml", ["round.loud.suffix=$$end"])
    assert here.values == {}, "a value goes with its last reader"
    assert [step.config.suffix for step in plan(here, profile())[1:]] == ["$end"] * 2
