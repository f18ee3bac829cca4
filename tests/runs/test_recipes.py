"""Every shipped recipe plans; the four of issue three run to their end with real engines, and are what their papers say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import artifact, recipe, rows, run
from pipeline.plan import plan
from pipeline.profile import load
from pipeline.recipe import find, shipped
from tests.support import tiny_recipes
from tests.support.tiny_recipes import NEW, PROMPTS

FIXED_REFERENCE = {"egpo", "inpo", "mnpo", "nash-md", "vpo", "xpo"}
"""Recipes of a regularised game, or of an objective whose reference is one for all rounds: that of the start."""


def _plan(name, **changes):
    body = recipe.read(find(name, "recipes"))
    return {step.address: step for step in plan(recipe.make({**body, **changes}, name), load(find("laptop", "profiles")))}


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_recipe_trains_each_round_from_the_policy_that_enters_it(name):
    steps = _plan(name)
    rounds = recipe.load(find(name, "recipes")).rounds
    for number in range(1, rounds + 1):
        before = f"round-{number - 1:02d}/policy" if number > 1 else "start/policy"
        trained = [step for step in steps.values() if step.round == number and step.stage == "train"]
        assert trained and all(step.inputs["model"] == (before,) for step in trained)
        for step in trained:
            for reference in step.inputs.get("reference", ()):
                kept = "start/policy" if name in FIXED_REFERENCE else before
                assert steps[reference].inputs == {"model": (kept,), "rows": step.inputs["rows"]}


def test_temporal_is_what_the_paper_says():
    steps = _plan("temporal-self-rewarding")
    for number in range(1, 6):
        here = f"round-{number:02d}"
        policy = f"round-{number - 1:02d}/policy" if number > 1 else "start/policy"
        judged = [step for step in steps.values() if step.round == number and step.stage == "judge"]
        assert [step.inputs["judge.model"] for step in judged] == [(policy,)] * 2, "the judge is the policy entering the round"
        assert steps[f"{here}/future"].inputs["model"] == steps[f"{here}/policy"].inputs["model"] == (policy,)
        readers = {step.address for step in steps.values() if f"{here}/future" in step.reads}
        assert readers == {f"{here}/ahead"}, "the future is asked, and never trained further"
        assert not steps[f"{here}/future"].keep and steps[f"{here}/policy"].keep
        candidates = steps[f"{here}/judged"].inputs["candidates"]
        assert candidates == (("start/past",) if number == 1 else ("start/past", f"{here}/present"))
        assert (f"{here}/present" in steps) == (number > 1), "round one skips the duplicate generation"
        rule = steps[f"{here}/pairs"].config.rule
        assert (rule.kind, rule.config.past, rule.config.ahead) == ("future_guided", None if number == 1 else "past", "ahead")
        assert steps[f"{here}/draft_pairs"].config.rule.config.past == rule.config.past
        assert steps[f"{here}/pairs"].inputs["judged"] == (f"{here}/judged", f"{here}/ahead_judged")
    asked = [step for step in steps.values() if step.stage == "generate" and step.inputs["prompts"] == ("start/prompts",)]
    assert [step.address for step in asked] == ["start/past"], "the past answers once"
    assert {step.config.n for step in steps.values() if step.node in ("past", "present", "ahead")} == {7}


def test_meta_rewarding_widens_its_tiers():
    steps = _plan("meta-rewarding")
    pairs = [steps[f"round-{number:02d}/pairs"].config for number in (1, 2, 3, 4)]
    assert [each.rule.config.rho for each in pairs] == [0.0, 0.32, 0.32, 0.4]
    assert [each.max_chosen_characters for each in pairs] == [2500, None, None, None]


def test_dno_replays_all_earlier_rounds_new_pairs():
    steps = _plan("dno")
    assert steps["round-03/pairs"].inputs["rows"] == ("round-01/new_pairs", "round-02/new_pairs", "round-03/new_pairs")
    assert (steps["round-03/pairs"].config.fractions, steps["round-03/pairs"].config.decay) == ((0.3, 1.0), 0.5)
    rule = steps["round-01/new_pairs"].config.rule.config
    assert (rule.min_positive, rule.teacher_gap, rule.own_gap) == (5, 2, 1)
    teacher = recipe.read(find("dno", "recipes"))["start"]["teacher"]["endpoint"]
    assert rule.teacher == teacher, "the source of the teacher's answers is its name"


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A recipe's tiny run, built once: its folder and its steps."""
    known = {}

    def get(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name) / "run"
            known[name] = folder, plan(*tiny_recipes.build(name, folder))
        return known[name]

    return get


@pytest.mark.parametrize("name", NEW)
def test_a_tiny_run_ends(ended, name):
    folder, steps = ended(name)
    states = {address: each.state for address, each in run.status(steps, folder, verify=True).items()}
    dropped = {step.address for step in steps if not step.keep}
    assert states == {step.address: "dropped" if step.address in dropped else "done" for step in steps}
    assert bool(dropped) == (name == "temporal-self-rewarding")
    for step in steps:
        if step.stage == "pair":
            for pair in rows.read(step.folder(folder)).to_pylist():
                assert pair["chosen_score"] > pair["rejected_score"]
        if step.stage == "train":
            facts = artifact.read(step.folder(folder)).manifest.facts
            assert facts["loss_first"] == pytest.approx(0.693147, abs=1e-4), "ln 2: the reference is the policy that training starts from"


def _table(folder, address):
    return {row["id"]: row for row in rows.read(folder / address).to_pylist()}


def test_temporal_pairs_are_phase_ones_and_phase_twos(ended):
    """On the artifacts of the run: the specification's steps 3 to 11, written out over the scores that are there."""
    folder, _ = ended("temporal-self-rewarding")
    for number in (1, 2):
        here = folder / f"round-{number:02d}"
        judged, ahead = _table(here, "judged"), _table(here, "ahead_judged")
        assert len(judged) == PROMPTS == len(ahead)
        expected1, expected2 = {}, {}
        for id, row in judged.items():
            scored = [(r["text"], s, r["source"]) for r, s in zip(row["responses"], row["scores"], strict=True)]
            old = [each for each in scored if each[2] == "start/past"]
            new = [each for each in scored if each[2] == f"round-{number:02d}/present"]
            assert (len(old), len(new)) == ((7, 0) if number == 1 else (7, 7))
            new = new or old
            chosen = max(new, key=lambda each: each[1])
            low_old, low_new = (min(each, key=lambda each: each[1]) for each in (old, new))
            rejected = low_old if low_old[1] < low_new[1] else low_new
            future = max(((r["text"], s, "") for r, s in zip(ahead[id]["responses"], ahead[id]["scores"], strict=True)), key=lambda e: e[1])
            better = future if future[1] > chosen[1] else chosen
            if chosen[1] > rejected[1]:
                expected1[id] = (chosen[0], rejected[0])
            if better[1] > rejected[1]:
                expected2[id] = (better[0], rejected[0])
        for node, expected in (("draft_pairs", expected1), ("pairs", expected2)):
            found = rows.read(here / node).to_pylist()
            assert {p["prompt_id"]: (p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in found} == expected


def test_dno_pairs_and_replay(ended):
    folder, _ = ended("dno")
    judged = _table(folder, "round-02/judged")
    kinds = set()
    for pair in rows.read(folder / "round-02/new_pairs").to_pylist():
        sources = [r["source"] for r in judged[pair["prompt_id"]]["responses"]]
        chosen, rejected = map(int, pair["id"].split(".")[2].split("-"))
        assert sources[5:] == ["start/teacher"] and pair["chosen_score"] >= 5
        assert pair["chosen_score"] - pair["rejected_score"] >= (2 if chosen == 5 else 1)
        kinds.add((chosen == 5, rejected == 5))
    assert {(False, False)} < kinds, "student over student, and the teacher in some"
    facts = artifact.read(folder / "round-02/pairs").manifest.facts
    first = artifact.read(folder / "round-01/new_pairs").manifest.facts["rows"]
    assert facts["from"][0] == int(0.3 * first) and sum(facts["from"]) == facts["rows"]
    asked = artifact.read(folder / "round-02/gold").manifest.facts
    assert asked["asked"] == PROMPTS and asked["known"] == 0


@pytest.mark.real
@pytest.mark.parametrize("name", NEW)
def test_killed_at_three_random_points_it_resumes_to_the_same_digests(name, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    root = Path(__file__).parents[2]
    call = [sys.executable, "-m", "tests.support.tiny_recipes", str(tmp_path), "3", name]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["calls"] > 100 and len(told["points"]) == 3


def test_a_plan_prints_as_a_graph(capsys):
    from pipeline import cli

    assert cli.call(["plan", "temporal-self-rewarding", "--graph"]) == 0
    assert "|-- future           train     <-- start/policy, draft_pairs, draft_reference" in capsys.readouterr().out
