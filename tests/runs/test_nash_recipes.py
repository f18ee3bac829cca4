"""The recipes of the Nash family and its neighbours: what they read from whom, and a tiny run of each on real engines."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from metrics.win_rates import win_rates
from pipeline import artifact, recipe, rows, run
from pipeline.errors import Refusal
from pipeline.plan import plan
from pipeline.profile import load
from pipeline.recipe import find, shipped
from rules import Pick, by_source
from tests.support import tiny_recipes
from tests.support.groups import judged
from tests.support.steps import build
from tests.support.tiny_recipes import NASH

ROOT = Path(__file__).parents[2]
LN2 = math.log(2)
FIRST_LOSS = {
    "rdpo": LN2, "osp": LN2, "selm": LN2, "vpo": LN2, "spin": LN2, "xpo": LN2, "kto": 0.5, "spo": 0.0,
    "inpo": 100.0**2, "mnpo": (200 / 3) ** 2, "sppo-hard": 2 * 500.0**2,
}  # fmt: skip
"""Of round one, where all policies are the same one: no margin, so that the target alone is left."""


def _steps(name):
    return {step.address: step for step in plan(recipe.load(find(name, "recipes")), load(find("laptop", "profiles")))}


# What stands in docs/methods.md


def _when(address, number):
    """How many rounds before the round `number` a model was made, as a recipe writes it."""
    folder, node = address.split("/")
    made = {f"round-{number:02d}": node, f"round-{number - 1:02d}": "prev"}.get(folder, "start" if folder == "start" else "")
    return made or f"prev{number - int(folder[-2:])}"


def _judge(choice):
    inner = getattr(choice.config, "judge", None)
    return f"{choice.kind}({_judge(inner)})" if inner is not None else choice.kind


def _cells(name):
    """What a recipe's row of the table says, as its last round has it."""
    number = recipe.load(find(name, "recipes")).rounds
    steps = _steps(name)
    here = [step for step in steps.values() if step.round == number]
    trained = [step for step in here if step.stage == "train"]

    def told(found):
        return ", ".join(dict.fromkeys(f"`{each}`" for each in found))

    reads = []
    for slot in ("reference", "history", "extra", "labels", "optimizer"):
        found = [address for step in trained for address in step.inputs.get(slot, ())]
        if slot in ("reference", "history"):
            found = [_when(steps[address].inputs["model"][0], number) for address in found]
        elif slot == "extra":
            found = [address.split("/")[1] for address in found]
        else:
            found = [_when(address, number) for address in found]
        if found:
            reads.append(f"{slot} {told(found)}")
    return [
        f"`{name}`",
        told(step.config.objective.kind for step in trained),
        told(_judge(step.config.judge) for step in here if step.stage == "judge"),
        told(step.config.rule.kind for step in here if step.stage == "pair"),
        "; ".join(reads) or "-",
    ]


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_recipe_stands_in_the_table_of_methods(name):
    table = [line.strip("| ").split(" | ") for line in (ROOT / "docs/methods.md").read_text().splitlines() if line.startswith("| ")]
    found = [row for row in table if row[1] == f"`{name}`"]
    assert len(found) == 1, f"docs/methods.md needs one row: | {' | '.join(['...', *_cells(name), '...', '...'])} |"
    _, *cells, paper, unverified = found[0]
    assert cells == [cell or "-" for cell in _cells(name)]
    head = find(name, "recipes").read_text().split("\nname:")[0]
    assert paper in head and unverified


# What the plans say


def test_inpo_and_mnpo_read_every_policy_once_a_round():
    steps = _steps("inpo")
    assert "round-01/last" not in steps and steps["round-01/policy"].inputs["history"] == ("round-01/reference",)
    assert steps["round-02/policy"].inputs["history"] == ("round-02/last",)
    steps = _steps("mnpo")
    history = [steps[f"round-{number:02d}/policy"].inputs["history"] for number in (1, 2, 3)]
    assert history == [("round-01/reference",), ("round-02/last", "round-02/reference"), ("round-03/last", "round-03/older")]
    assert steps["round-03/older"].inputs["model"] == ("round-01/policy",)
    for step in steps.values():
        if step.stage == "logprobs":
            others = [other for other in steps.values() if other.stage == "logprobs" and other.inputs == step.inputs]
            assert others == [step]


def test_egpo_takes_both_half_steps_from_one_place():
    steps = _steps("egpo")
    for number in (1, 2, 10):
        here = f"round-{number:02d}"
        half, full = steps[f"{here}/half"], steps[f"{here}/policy"]
        before = f"round-{number - 1:02d}/policy" if number > 1 else "start/policy"
        assert half.inputs["model"] == full.inputs["model"] == (before,)
        assert half.inputs.get("optimizer", ()) == full.inputs.get("optimizer", ()) == ((before,) if number > 1 else ())
        assert half.config.objective == full.config.objective and not half.keep and full.config.keep_optimizer
        assert steps[f"{here}/half_judged"].inputs["candidates"] == (f"{here}/explored", f"{here}/opponent")
        assert steps[f"{here}/judged"].inputs["candidates"] == (f"{here}/explored", f"{here}/half_opponent")
        assert steps[f"{here}/half_opponent"].inputs["model"] == (f"{here}/half",)


def test_accelerated_sppo_extrapolates_from_what_training_left():
    steps = _steps("accelerated-sppo")
    previous = [steps[f"round-{number:02d}/policy"].inputs["previous"] for number in (1, 2, 3)]
    assert previous == [("start/policy",), ("round-01/hat",), ("round-02/hat",)]
    assert steps["round-02/candidates"].inputs["model"] == steps["round-02/reference"].inputs["model"] == ("round-01/policy",)


def test_what_the_reference_says_is_asked_for_once():
    steps = _steps("vpo")
    assert {steps[f"round-{number:02d}/policy"].inputs["extra_reference"] for number in (1, 2, 3)} == {("start/calibration_reference",)}
    assert steps["round-03/pairs"].inputs["rows"] == ("round-01/new_pairs", "round-02/new_pairs", "round-03/new_pairs")
    assert {_steps("xpo")[f"round-{number:02d}/policy"].inputs["extra"] for number in (1, 2, 3)} == {("start/base",)}


# Pieces


def test_by_source_asks_nobody():
    group = judged(
        ("said", "shown", "said again"),
        ("stop",) * 3,
        ("round-01/candidates", "demonstration", "round-01/candidates"),
        (9.0, 1.0, 9.0),
        None,
    )
    config = by_source.Config(chosen="demonstration", rejected="candidates")
    assert by_source.choose(config, group, 0) == ([Pick(1, 0)], None)
    same, blank = replace(group, responses=("shown", "shown", "")), replace(group, responses=("", "shown", ""))
    assert by_source.choose(config, same, 0) == ([], "identical") and by_source.choose(config, blank, 0) == ([], "empty")
    keep = config.model_copy(update={"identical": "keep", "empty": "keep"})
    assert by_source.choose(keep, same, 0) == by_source.choose(keep, blank, 0) == ([Pick(1, 0)], None)
    with pytest.raises(Refusal, match="0 come from 'teacher'"):
        by_source.choose(by_source.Config(chosen="teacher", rejected="candidates"), group, 0)


def test_empty_demonstrations_can_stand_beside_candidates(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p, "r": r}) + "\n" for p, r in (("a", "x"), ("b", " "))))
    source = {"kind": "jsonl", "path": str(tmp_path / "p.jsonl"), "response": "r"}
    for empty, count in (("drop", 1), ("keep", 2)):
        assert build(tmp_path / empty, "demonstrations", {"source": source, "empty": empty}).manifest.facts["rows"] == count


# Tiny runs


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Every recipe run, killed at one random durable call and resumed, in two processes: what was told, and the folders."""
    base = tmp_path_factory.mktemp("nash")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    parts = {"even": NASH[::2], "odd": NASH[1::2]}
    started = []
    for part, names in parts.items():
        (base / part).mkdir()
        call = [sys.executable, "-m", "tests.support.tiny_recipes", str(base / part), "1", *names]
        started.append(subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT))
    said = [process.communicate()[0] for process in started]
    told = [json.loads(line) for text in said for line in text.splitlines() if line.startswith('{"name"')]
    folders = {name: base / part / name / "whole" for part, names in parts.items() for name in names}
    return {each["name"]: each for each in told}, folders, "\n".join(text[-3000:] for text in said)


def _facts(folder, address):
    return artifact.read(folder / address).manifest.facts


def _table(folder, address):
    return rows.read(folder / address).to_pylist()


@pytest.mark.real
@pytest.mark.parametrize("name", NASH)
def test_a_tiny_run_ends_and_resumes_to_the_same_digests(ended, name):
    told, folders, said = ended
    assert name in told, said
    assert told[name]["calls"] > 100 and len(told[name]["points"]) == 1
    rounds, folder = tiny_recipes.ROUNDS.get(name, 2), folders[name]
    steps = plan(tiny_recipes.tiny(name, rounds, folder.parent), tiny_recipes.profile(folder.parent))
    states = {address: each.state for address, each in run.status(steps, folder, verify=True).items()}
    assert states == {step.address: "done" if step.keep else "dropped" for step in steps}
    if name in FIRST_LOSS:  # XPO's also holds 1e-5 times a log-probability
        assert _facts(folder, "round-01/policy")["loss_first"] == pytest.approx(FIRST_LOSS[name], rel=1e-5, abs=1e-3)


@pytest.mark.real
def test_mnpo_computes_nothing_twice(ended, capsys):
    """Show 7: over four rounds, no policy's log-probabilities of a row are computed a second time."""
    folder = ended[1]["mnpo"]
    seen = []
    for path in sorted(folder.glob("round-*/*/manifest.json")):
        made = artifact.read(path.parent).manifest
        if made.identity["stage"] == "logprobs":
            (policy,) = made.inputs["model"]
            seen += [(policy, row["id"]) for row in rows.read(path.parent, ["id"]).to_pylist()]
    assert len(seen) == len(set(seen))
    pairs = {number: len(_table(folder, f"round-{number:02d}/pairs")) for number in (1, 2, 3, 4)}
    policies = {1: 1, 2: 2, 3: 3, 4: 3}
    assert len(seen) == sum(policies[number] * pairs[number] for number in pairs)
    told = f"mnpo, 4 rounds: {len(seen)} log-probabilities of (policy, row), none twice, of {len({policy for policy, _ in seen})} policies"
    with capsys.disabled():
        print(f"\n{told}")


@pytest.mark.real
def test_egpo_judges_one_pair_against_two_opponents(ended):
    folder = ended[1]["egpo"]
    for number in (1, 2):
        here = folder / f"round-{number:02d}"
        half, full = (_table(here, node) for node in ("half_pairs", "pairs"))
        assert [(p["id"], p["chosen"], p["rejected"]) for p in half] == [(p["id"], p["chosen"], p["rejected"]) for p in full]
        assert [p["chosen_win_rate"] for p in half] != [p["chosen_win_rate"] for p in full]
        judged = {row["id"]: row for row in _table(here, "judged")}
        for pair in full:
            y, other, opponent = judged[pair["prompt_id"]]["responses"]
            assert opponent["source"] == f"round-{number:02d}/half_opponent" and pair["chosen"][0]["content"] == y["text"]
            wins = judged[pair["prompt_id"]]["wins"]
            assert (pair["chosen_win_rate"], pair["rejected_win_rate"]) == (wins[0][2], wins[1][2])
    manifests = [artifact.read(folder / "round-02" / node).manifest for node in ("half", "policy")]
    before = artifact.read(folder / "round-01/policy").manifest.digest
    assert all([*made.inputs["optimizer"], *made.inputs["model"]] == [before, before] for made in manifests)


@pytest.mark.real
def test_nash_md_learns_from_the_win_rate_against_the_mixture(ended):
    folder = ended[1]["nash-md"] / "round-02"
    judged = {row["id"]: row for row in _table(folder, "judged")}
    pairs = _table(folder, "pairs")
    assert len(pairs) == len(judged)
    for pair in pairs:
        row = judged[pair["prompt_id"]]
        assert [each["source"] for each in row["responses"]] == ["round-02/candidates", "round-02/opponent"]
        assert pair["chosen_win_rate"] == pytest.approx(row["wins"][0][1])
    assert _facts(folder, "policy")["rows"] == len(pairs)


@pytest.mark.real
def test_spo_rewards_are_win_rates(ended):
    for row in _table(ended[1]["spo"], "round-01/judged"):
        assert row["scores"] == pytest.approx(win_rates(row["wins"])) and sum(row["scores"]) / len(row["scores"]) == pytest.approx(0.5)


@pytest.mark.real
def test_spin_pairs_demonstrations_with_samples_and_reads_them_twice(ended):
    folder = ended[1]["spin"]
    gold = {row["id"]: row["responses"][0]["text"] for row in _table(folder, "start/gold")}
    first, second = (_table(folder, f"round-{number:02d}/pairs") for number in (1, 2))
    for pair in second:
        assert pair["chosen"][0]["content"] == gold[pair["prompt_id"]] != pair["rejected"][0]["content"]
    assert {pair["id"] for pair in first} < {pair["id"] for pair in second}


@pytest.mark.real
def test_power_dl_labels_go_on_in_the_next_round(ended):
    folder = ended[1]["power-dl"]
    given = {pair["id"]: pair["label"] for pair in _table(folder, "round-01/pairs")}
    first, second = ({row["id"]: row["label"] for row in _labels(folder / f"round-{number:02d}/policy")} for number in (1, 2))
    assert set(first) == set(given) < set(second) and set(given.values()) == {None}  # they begin at 1
    for id, label in first.items():
        assert 0.9 < label < 1
        assert 0.9 * label <= second[id] <= 0.9 * label + 0.1 and second[id] != pytest.approx(label, abs=1e-6)


def _labels(folder):
    import pyarrow.parquet as pq

    return pq.read_table(folder / "labels.parquet").to_pylist()


@pytest.mark.real
def test_accelerated_sppo_goes_beyond_its_own_training(ended):
    import torch
    from safetensors.torch import load_file

    hat, before, policy = (
        load_file(ended[1]["accelerated-sppo"] / at / "model.safetensors") for at in ("round-02/hat", "round-01/hat", "round-02/policy")
    )
    for name, weight in policy.items():
        assert torch.allclose(weight, hat[name] + 0.3 * (hat[name] - before[name]), atol=1e-6)
    assert any(not torch.equal(policy[name], hat[name]) for name in policy)


@pytest.mark.real
def test_selm_ranks_its_greedy_response_beside_the_offline_ones(ended):
    folder = ended[1]["selm"]
    for row in _table(folder, "round-02/judged"):
        assert [each["source"] for each in row["responses"]] == ["round-02/greedy", "demonstration", "demonstration"]
    made = artifact.read(folder / "round-02/policy").manifest
    assert len(made.inputs["extra"]) == len(made.inputs["extra_reference"]) == 1
