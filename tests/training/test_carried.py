"""What a training leaves for later ones besides a model: labels that moved, numbers, optimizer state. And what it refuses."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import trainers.torch as torch_trainer
from pipeline import recipe
from pipeline.errors import Problems, Refusal
from pipeline.plan import plan
from pipeline.profile import load
from stages import train as train_stage
from tests.support.models import tiny_llama
from tests.support.training_jobs import digests, group_row, job, pairs_job
from training import data, labels, masks, optimizer
from training.job import Job

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), tied=True)


class Stopped(Exception):
    pass


def train(made: Job, stop_at: int | None = None) -> dict[str, Any]:
    def report(address: str, done: int, total: int) -> None:
        if done == stop_at:
            raise Stopped

    tools = SimpleNamespace(address="round-01/policy", report=report, event=lambda kind, **told: None)
    return torch_trainer.train(torch_trainer.Config(threads=1, checkpoint_steps=1), made, tools)


@pytest.mark.parametrize("objective", [{"kind": "power_dl", "gamma": 0.3}, {"kind": "bco", "shift": "running_mean"}, "kto"])
def test_what_an_objective_carries_from_step_to_step_survives_a_stop(tmp_path: Path, model: Path, objective: Any) -> None:
    straight = pairs_job(tmp_path / "straight", model, objective, num_train_epochs=2)
    train(straight)
    stopped = pairs_job(tmp_path / "stopped", model, objective, num_train_epochs=2)
    with pytest.raises(Stopped):
        train(stopped, stop_at=4)
    assert train(stopped)["resumed_at_step"] == 3  # the step at which it was stopped had not been saved
    assert digests(stopped.out) == digests(straight.out)


def test_labels_go_on_in_a_later_training(tmp_path: Path, model: Path) -> None:
    first = pairs_job(tmp_path / "first", model, "power_dl")
    train(first)
    left = labels.read(first.out)
    assert left.keys() == {f"row-{i:03d}" for i in range(20)} and all(0 < label < 1 for label in left.values())
    again = replace(pairs_job(tmp_path / "again", model, "power_dl", count=22), labels=first.out)
    examples = data.read(again)
    known = dict(zip(examples.ids_U, examples.labels_U, strict=True))
    assert {id: known[id] for id in left} == left and known["row-020"] == known["row-021"] == 1.0
    train(again)
    assert all(labels.read(again.out)[id] < label for id, label in left.items())
    with pytest.raises(Refusal, match="has no labels.parquet; name a training whose objective moves labels"):
        data.read(replace(again, labels=model))


def test_optimizer_state_is_taken_up(tmp_path: Path, model: Path) -> None:
    first = replace(pairs_job(tmp_path / "first", model), keep_optimizer=True)
    train(first)
    state = load_file(first.out / optimizer.FILE)
    steps = {name: value for name, value in state.items() if name.endswith("/step")}
    assert steps and all(value == 3 for value in steps.values())
    assert sorted(path.name for path in first.out.glob("*.safetensors")) == ["model.safetensors"]  # whoever loads the model finds it alone
    fresh, carried = (pairs_job(tmp_path / name, model) for name in ("fresh", "carried"))
    carried = replace(carried, optimizer=first.out, keep_optimizer=True)
    train(fresh)
    train(carried)
    assert all(value == 6 for name, value in load_file(carried.out / optimizer.FILE).items() if name.endswith("/step"))
    weights = [(made.out / "model.safetensors").read_bytes() for made in (fresh, carried)]
    assert weights[0] != weights[1]
    with pytest.raises(Refusal, match="holds no optimizer state; set `keep_optimizer: true`"):
        train(replace(pairs_job(tmp_path / "none", model), optimizer=fresh.out))
    with pytest.raises(Refusal, match="deepspeed divides its optimizer's state"):
        import trainers.deepspeed as deepspeed_trainer

        deepspeed_trainer.train(deepspeed_trainer.Config(), carried, SimpleNamespace())


def test_learned_masks_train_and_do_not_stay_in_the_model(tmp_path: Path, model: Path) -> None:
    made = pairs_job(tmp_path, model, {"kind": "sparsepo", "masks": "independent"})
    train(made)
    assert not [name for name in load_file(made.out / "model.safetensors") if "mask" in name]


def test_masks_of_activations_lie_between_0_and_1_and_reach_both() -> None:
    cell_R = torch.tensor([0, 1, 2, 4, 5, 6, 8])
    laid: Any = SimpleNamespace(
        mask_NT=torch.tensor([[True, True, True, False], [True, True, True, False], [True, False, False, False]]),
        cell_R=cell_R,
        kept_R=None,
    )
    found = {"q_proj": [torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 9.0, 4.0])], "layer": [torch.tensor([0.0, 4.0, 2.0, 1.0, 1.0, 1.0, 7.0])]}
    mask_R = masks.of_activations(found, laid)
    expected = [(0 + 0) / 2, (0.5 + 1) / 2, (1 + 0.5) / 2, (0 + 1) / 2, (0 + 1) / 2, (1 + 1) / 2, 1.0]
    assert mask_R.tolist() == pytest.approx(expected)


def test_phrases_are_the_stretches_that_differ() -> None:
    import numpy as np

    from models.tokens import Response

    chosen, rejected = np.asarray([1, 2, 3, 4, 5]), np.asarray([1, 9, 9, 3, 4, 7, 8, 5])
    assert [each.tolist() for each in data._phrases(Response(chosen), Response(rejected))] == [[0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 2, 2, 0]]


def test_groups_leave_out_what_the_judge_left_open(tmp_path: Path, model: Path) -> None:
    open_row = {**group_row(0), "scores": [0.5, None, 2.0]}
    lone_row = {**group_row(2), "scores": [None, None, 2.0]}
    examples = data.read(job(tmp_path, model, "judged", [open_row, group_row(1), lone_row], "pro"))
    assert examples.units_UW.tolist() == [[0, 1, -1, -1], [2, 3, 4, 5]]
    assert examples.scores_N is not None and examples.scores_N.tolist() == [0.5, 2.0, 0.5, 0.0, 2.0, 0.25]
    assert examples.facts["dropped"] == 1


def test_an_extra_response_is_found_by_row_or_prompt(tmp_path: Path, model: Path) -> None:
    made = pairs_job(tmp_path, model, "selm", count=3)
    examples = data.read(made)
    assert examples.extras_UE.shape == (3, 1) and examples.known_LR.shape[0] == 1
    other = pairs_job(tmp_path / "other", model, "selm", count=5)
    with pytest.raises(Refusal, match="has no response for row 'row-003' or its prompt 'prompt-003', among 3 rows"):
        data.read(replace(other, extra=made.extra))


@pytest.mark.parametrize(
    ("objective", "missing"),
    [
        ("inpo", "history: objective 'inpo' needs log-probabilities under one or more earlier policies; add a node {stage: logprobs"),
        ("selm", "extra: objective 'selm' needs a further response beside each row; add a node {stage: generate"),
        ("selm", "extra_reference: objective 'selm' needs the reference's log-probabilities of its extra responses"),
        ("sparsepo", "reference_model: objective 'sparsepo' needs the reference model itself; name a policy"),
        ("srpo", "needs 4 further responses beside each row"),
    ],
)
def test_a_recipe_that_does_not_provide_what_is_needed_is_refused(objective: str, missing: str) -> None:
    body = {"model": "policy@prev", "rows": "pairs", "reference": "reference", "objective": objective}
    with pytest.raises(ValidationError) as caught:
        train_stage.Config.model_validate(body)
    assert missing in str(caught.value)


def test_what_nobody_reads_is_refused() -> None:
    body = {"model": "policy@prev", "rows": "pairs", "reference": "reference", "objective": "dpo"}
    for field in ("history", "extra", "reference_model"):
        with pytest.raises(ValidationError, match=f"{field}: objective 'dpo' reads none; leave the field out"):
            train_stage.Config.model_validate({**body, field: "something"})


def test_a_recipe_whose_rows_are_of_another_kind_is_refused_in_the_plan() -> None:
    body = recipe.read(recipe.find("spo", "recipes"))
    body["round"]["policy"]["rows"] = "candidates"
    with pytest.raises(Problems, match=r"round-01/policy: rows: 'candidates' makes candidates, but judged is read here; name another node"):
        plan(recipe.make(body, "spo"), load(recipe.find("laptop", "profiles")))
