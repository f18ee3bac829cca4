"""The parts of training that no trainer may get wrong: data, batches, reduction, schedules, resume."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import trainers.torch as torch_trainer
from models import Model, canary, chat, forward
from models import tokens as token_tables
from pipeline import rows
from pipeline.errors import Refusal
from tests.support.models import tiny_llama
from tests.support.training_jobs import job, pair_row, pairs_job
from trainers.torch import worker as workers
from training import batches, data, loop, schedule, state
from training.job import Job, Optimisation
from training.policy import Policy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), tied=True)


def train(made: Job, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    tools = SimpleNamespace(address="start/policy", report=lambda address, done, total: None, event=lambda kind, **told: None)
    facts = torch_trainer.train(torch_trainer.Config(**{"threads": 1, **settings}), made, tools)
    return facts, [json.loads(line) for line in (made.out / state.METRICS).read_text().splitlines()]


# The data


def test_sampled_token_ids_are_trained_on_as_they_are(tmp_path: Path, model: Path) -> None:
    mine = chat.fingerprint(chat.load_tokenizer(model))
    sampled = {"prompt_token_ids": [9, 8], "chosen_token_ids": [50, 51, 52], "rejected_token_ids": [60], "tokenizer": mine}
    body = [pair_row(0, **sampled), pair_row(1, **{**sampled, "tokenizer": "another"}), pair_row(2), pair_row(3, **sampled)]
    found = data.read(job(tmp_path, model, "pairs", body, {"kind": "dpo", "reference_free": True}))
    first = [found.tokens_V[found.starts_N[i] : found.starts_N[i] + found.lengths_N[i]].tolist() for i in found.units_UW[0]]
    assert first == [[9, 8, 50, 51, 52], [9, 8, 60]]
    assert found.facts["retokenised"] == 2
    assert found.units_UW[0].tolist() == found.units_UW[3].tolist()  # equal responses to equal prompts are one row of the forward
    tokenizer = chat.load_tokenizer(model)
    second = found.units_UW[1][0]
    start = found.starts_N[second]
    want = chat.render(tokenizer, body[1]["prompt"]) + chat.response_ids(tokenizer, body[1]["chosen"][0]["content"])
    assert found.tokens_V[start : start + found.lengths_N[second]].tolist() == want


def test_rows_in_several_row_groups_and_odd_places_are_read_alike(model: Path) -> None:
    tokenizer = chat.load_tokenizer(model)
    mine = chat.fingerprint(tokenizer)
    body = [
        {
            "id": str(i),
            "prompt": [{"role": "user", "content": "x" * (i % 4)}],
            "prompt_token_ids": [i % 90, 5],
            "tokenizer": mine,
            "responses": [{"text": "t", "token_ids": [7] * (j + 1)} for j in range(i % 3)] + [{"text": "demo"}] * (i % 2),
        }
        for i in range(30)
    ]
    table = rows.from_pylist("candidates", body)
    whole = list(token_tables.token_rows(table, "candidates", tokenizer))
    for i, row in enumerate(whole):
        want = [[7] * (j + 1) for j in range(i % 3)] + [chat.response_ids(tokenizer, "demo")] * (i % 2)
        assert row.prompt.tolist() == [i % 90, 5]
        assert [response.ids.tolist() for response in row.responses] == want
        assert row.retokenised == bool(i % 2)
    part = list(token_tables.token_rows(table.slice(11, 13), "candidates", tokenizer))
    alone, among = ([[each.ids.tolist() for each in row.responses] for row in some] for some in (part, whole[11:24]))
    assert alone == among


def test_long_responses_are_cut_and_what_has_none_left_is_dropped(tmp_path: Path, model: Path) -> None:
    tokenizer = chat.load_tokenizer(model)
    limit = 32
    long_prompt = [{"role": "user", "content": "p" * 40}]
    body = [
        pair_row(0, chosen=[{"role": "assistant", "content": "y" * 50}]),
        pair_row(1, prompt=long_prompt),
        pair_row(2),
    ]
    made = job(tmp_path, model, "pairs", body, "dpo", max_length=limit)
    found = data.read(made)
    assert found.facts["rows"] == 3 and found.facts["units"] == 2
    assert found.facts["truncated"] == 1 + 2 and found.facts["dropped"] == 1
    assert found.lengths_N.max() == limit
    assert found.known_LR.shape[1] == found.response_lengths_N.sum()
    prompt = len(chat.render(tokenizer, body[0]["prompt"]))
    assert found.response_lengths_N[found.units_UW[0][0]] == limit - prompt
    with pytest.raises(Refusal, match="nothing to train on: of 1 rows all were dropped"):
        data.read(job(tmp_path / "b", model, "pairs", [pair_row(1, prompt=long_prompt)], "dpo", max_length=limit))


def test_a_reference_of_other_rows_is_refused(tmp_path: Path, model: Path) -> None:
    made = pairs_job(tmp_path, model, count=4)
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    assert made.reference is not None
    table = rows.read(made.reference)
    rows.write(shuffled, "logprobs", [table.take([2, 0, 3, 1])])
    straight = data.read(made)
    by_id = data.read(replace(made, reference=shuffled))
    assert np.array_equal(straight.known_LR, by_id.known_LR)
    for name, wrong in (("short", table.slice(1)), ("strange", pair_ids(table, ["row-000", "row-001", "row-002", "row-009"]))):
        (tmp_path / name).mkdir()
        rows.write(tmp_path / name, "logprobs", [wrong])
        with pytest.raises(Refusal, match="1 of these are missing there"):
            data.read(replace(made, reference=tmp_path / name))
    (tmp_path / "lengths").mkdir()
    swapped = table.set_column(1, "logprobs", table["logprobs"].take([1, 0, 2, 3]))
    rows.write(tmp_path / "lengths", "logprobs", [swapped])
    with pytest.raises(Refusal, match=r"row 'row-00\d' has \d+ log-probabilities for a response of \d+ tokens"):
        data.read(replace(made, reference=tmp_path / "lengths"))


def pair_ids(table: Any, ids: list[str]) -> Any:
    import pyarrow as pa

    return table.set_column(0, "id", pa.array(ids))


def test_pairs_without_win_rates_are_refused_by_sppo(tmp_path: Path, model: Path) -> None:
    body = [pair_row(0), pair_row(1, rejected_win_rate=None)]
    with pytest.raises(Refusal, match="1 of 2 pairs have no win rate, such as 'row-001'"):
        data.read(job(tmp_path, model, "pairs", body, "sppo"))
    data.read(job(tmp_path / "b", model, "pairs", body, {"kind": "sppo", "form": "hard"}))


def test_sft_reads_the_chosen_of_pairs_and_every_response_of_candidates(tmp_path: Path, model: Path) -> None:
    found = data.read(job(tmp_path, model, "pairs", [pair_row(i) for i in range(3)], "sft"))
    assert found.units_UW.shape == (3, 1)
    body = [{"id": "1", "prompt": [{"role": "user", "content": "q"}], "responses": [{"text": "a"}, {"text": "bb"}]}]
    assert data.read(job(tmp_path / "b", model, "candidates", body, "sft")).units_UW.shape == (2, 1)


# Batches and schedules


def test_every_unit_stands_once_in_an_epoch_whatever_the_machine(tmp_path: Path, model: Path) -> None:
    body = [pair_row(i // 2, id=str(i), rejected=[{"role": "assistant", "content": f"no {i}"}]) for i in range(21)]
    examples = data.read(job(tmp_path, model, "pairs", body, "dpo"))
    optimisation = Optimisation(batch_size=8, num_train_epochs=2)
    order = list(loop.step_units(optimisation, 21, seed=3))
    assert [len(units) for _, units in order] == [8, 8, 5, 8, 8, 5]
    for epoch in (0, 1):
        assert sorted(np.concatenate([units for e, units in order if e == epoch]).tolist()) == list(range(21))
    assert order[0][1].tolist() != order[3][1].tolist()
    assert batches.permutation(8, seed=1, epoch=0).tolist() == [2, 4, 7, 5, 0, 6, 3, 1]  # frozen: a resumed run must find its order again
    for ranks in (1, 2, 3):
        for tokens in (1, 60, 200, 10_000):
            dealt = batches.deal(examples, order[0][1], tokens, ranks)
            assert len(dealt) == ranks and len({len(mine) for mine in dealt}) == 1
            micro = [each for mine in dealt for each in mine if each is not None]
            assert sorted(np.concatenate(micro).tolist()) == sorted(order[0][1].tolist())
            for group in examples.groups_U[order[0][1]]:
                assert sum(group in examples.groups_U[each] for each in micro) == 1
            for each in micro:
                responses = batches.responses_of(examples, each)
                one_group = len(set(examples.groups_U[each])) == 1
                assert one_group or len(responses) * examples.lengths_N[responses].max() <= tokens


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
def test_schedules_have_the_shapes_of_transformers(kind: str, warmup: float) -> None:
    from transformers import get_scheduler

    total = 37
    optimisation = Optimisation(learning_rate=0.3, lr_scheduler_type=kind, warmup_ratio=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    name = "constant_with_warmup" if kind == "constant" else kind
    theirs = get_scheduler(name, optimizer, num_warmup_steps=math.ceil(total * warmup), num_training_steps=total)
    for step in range(total):
        assert schedule.learning_rate(optimisation, step, total) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_a_schedule_laid_out_for_more_epochs_stays_near_its_peak() -> None:
    one_of_18 = Optimisation(learning_rate=5e-7, schedule_total_epochs=18, batch_size=64)
    run, scheduled = schedule.steps(one_of_18, 640)
    assert (run, scheduled) == (10, 180)
    assert schedule.learning_rate(one_of_18, run - 1, scheduled) > 0.9 * 5e-7
    assert schedule.steps(Optimisation(batch_size=64, num_train_epochs=3), 650) == (33, 33)


# The step


@pytest.mark.parametrize(("objective", "want"), [("dpo", math.log(2)), ({"kind": "ipo", "beta": 0.1}, 25.0)])
def test_before_the_first_step_the_loss_is_its_closed_form(tmp_path: Path, model: Path, objective: Any, want: float) -> None:
    facts, metrics = train(pairs_job(tmp_path, model, objective))
    assert metrics[0]["loss"] == pytest.approx(want, abs=1e-6 if objective == "dpo" else 1e-3)
    assert abs(metrics[0]["margin"]) < 1e-4
    assert facts["loss_first"] == metrics[0]["loss"] and facts["steps"] == 3


def test_before_the_first_step_sppo_is_the_mean_squared_target(tmp_path: Path, model: Path) -> None:
    made = pairs_job(tmp_path, model, "sppo", batch_size=20)
    _, metrics = train(made)
    want = np.mean([0.5 * (1000 * (i % 5) / 10) ** 2 + 0.5 * (1000 * (i % 4) / 10) ** 2 for i in range(20)])
    assert metrics[0]["loss"] == pytest.approx(want, rel=1e-5)
    assert metrics[0]["scaled_loss"] == pytest.approx(want * 1e-6, rel=1e-5)


def test_training_learns_and_leaves_a_model_that_reproduces_its_canary(tmp_path: Path, model: Path) -> None:
    facts, metrics = train(pairs_job(tmp_path, model, learning_rate=3e-3, num_train_epochs=4))
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"] and metrics[-1]["accuracy"] == 1.0
    out = tmp_path / "out"
    assert {"model.safetensors", "config.json", "tokenizer.json", "canary.json", "metrics.jsonl"} <= {path.name for path in out.iterdir()}
    assert chat.fingerprint(chat.load_tokenizer(out)) == chat.fingerprint(chat.load_tokenizer(model))
    stored = canary.read(out)
    assert stored is not None and len(stored[0]) == 8
    loaded = forward.load(Model(out), "float32", "cpu")
    assert canary.difference(stored[1], canary.measure(loaded, stored[0])) < 1e-4
    assert canary.difference(stored[1], canary.measure(forward.load(Model(model), "float32", "cpu"), stored[0])) > 0.05
    assert facts["responses"] == 40 and facts["grad_norm_max"] >= facts["grad_norm_last"] > 0


@pytest.mark.parametrize("settings", [{"tokens_per_device": 40}, {"gradient_checkpointing": True}])
def test_machine_settings_change_nothing_but_noise(tmp_path: Path, model: Path, settings: dict[str, Any]) -> None:
    _, one = train(pairs_job(tmp_path / "a", model))
    _, other = train(pairs_job(tmp_path / "b", model), **settings)
    for a, b in zip(one, other, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


@pytest.mark.parametrize("settings", [{"optim": "rmsprop"}, {"weight_decay": 0.1}, {"lr_scheduler_type": "cosine", "warmup_ratio": 0.3}])
def test_optimizers_train(tmp_path: Path, model: Path, settings: dict[str, Any]) -> None:
    _, metrics = train(pairs_job(tmp_path, model, num_train_epochs=2, **settings))
    assert metrics[-1]["loss"] < metrics[0]["loss"]


def test_vectors_are_not_decayed() -> None:
    named = [("norm", torch.nn.Parameter(torch.ones(3))), ("weight", torch.nn.Parameter(torch.ones(3, 3)))]
    groups = schedule.optimizer(named, Optimisation(weight_decay=0.1)).param_groups
    assert [(group["weight_decay"], group["params"][0].ndim) for group in groups] == [(0.1, 2), (0.0, 1)]


def test_bfloat16_keeps_what_is_too_small_for_it(tmp_path: Path, model: Path) -> None:
    made = pairs_job(tmp_path, model, {"kind": "dpo", "reference_free": True}, learning_rate=1e-6, num_train_epochs=5)
    loaded = forward.load(Model(model), "bfloat16", "cpu")
    worker = workers.Single(Policy(loaded, made, None), made, "cpu")
    training = state.begin(made, data.read(made), worker, 10_000, None)
    before = [master.clone() for master in worker._masters]
    for _, units in loop.step_units(made.optimisation, 20, 7):
        loop.take_step(training, units, "here", 1e-6, False)
    moved = [(master - old).abs().max().item() for master, old in zip(worker._masters, before, strict=True)]
    assert 1e-6 < max(moved) < 1e-4
    facts, _ = train(made, dtype="bfloat16")
    assert facts["steps"] == 15
    assert json.loads((made.out / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_loss_that_is_no_number_stops_with_step_and_value(tmp_path: Path, model: Path) -> None:
    wild = {"learning_rate": 1e10, "lr_scheduler_type": "constant", "num_train_epochs": 10}
    with pytest.raises(Refusal, match=r"(loss|gradient norm) is (nan|inf) at step \d+ of 30 \(learning rate 1e\+10\)"):
        train(pairs_job(tmp_path, model, {"kind": "dpo", "reference_free": True}, **wild))
    assert not list((tmp_path / "out").iterdir())
