"""DeepSpeed on two gloo ranks against the torch trainer: the same losses, the same model, and an exact way back."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from models import Model, canary, forward
from pipeline import plugin
from pipeline.errors import Refusal
from pipeline.executors.inline import InlinePool
from pipeline.tools import Tools
from tests.support.core import profile
from tests.support.models import tiny_llama
from tests.support.training_jobs import pairs_job
from training import state
from training.job import Job

pytestmark = pytest.mark.real
COUNT = 21  # the last step has 5 pairs, which two ranks cannot share evenly


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), tied=True)


def tools(work: Path, trainer: dict[str, Any]) -> Tools:
    return Tools("round-01/policy", 7, 1, {}, work / "out", work, profile(trainer=trainer), pool=InlinePool())


def train(made: Job, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    choice = plugin.parse("trainers", settings)
    facts = choice.module.train(choice.config, made, tools(made.work, settings))
    return facts, [json.loads(line) for line in (made.out / state.METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, list[dict[str, Any]]]:
    made = pairs_job(tmp_path_factory.mktemp("alone"), model, count=COUNT, num_train_epochs=2, weight_decay=0.01)
    return made.out, train(made, kind="torch", threads=1)[1]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_trains_as_one_process_does(tmp_path: Path, model: Path, alone: Any, stage: int) -> None:
    made = pairs_job(tmp_path, model, count=COUNT, num_train_epochs=2, weight_decay=0.01)
    # Small micro-batches, so that steps accumulate and ranks run idle.
    facts, metrics = train(made, kind="deepspeed", ranks=2, zero_stage=stage, tokens_per_device=150)
    out, expected = alone
    assert len(metrics) == len(expected) == facts["steps"] == 6
    for ours, theirs in zip(metrics, expected, strict=True):
        for name in ("loss", "margin", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-5), (name, ours["step"])
        assert {n: ours[n] for n in ("units", "tokens", "learning_rate")} == {n: theirs[n] for n in ("units", "tokens", "learning_rate")}
    ours, theirs = load_file(made.out / "model.safetensors"), load_file(out / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name] - theirs[name]).abs().max().item() < 1e-4, name
    stored = canary.read(made.out)
    assert stored is not None
    assert canary.difference(stored[1], canary.measure(forward.load(Model(made.out), "float32", "cpu"), stored[0])) < 1e-4


@pytest.mark.parametrize(("stage", "objective"), [(2, "kto"), (3, {"kind": "sparsepo", "masks": "independent"})])
def test_other_kinds_of_objectives_train_as_in_one_process(tmp_path: Path, model: Path, stage: int, objective: Any) -> None:
    """Coupled over the step; with a reference that is asked in every step, and masks learned beside the policy."""
    both = [pairs_job(tmp_path / name, model, objective, count=9, batch_size=4) for name in ("alone", "ranks")]
    _, expected = train(both[0], kind="torch", threads=1)
    _, metrics = train(both[1], kind="deepspeed", ranks=2, zero_stage=stage, tokens_per_device=150)
    assert len(metrics) == len(expected) >= 3
    for ours, theirs in zip(metrics, expected, strict=True):
        for each in (ours, theirs):
            each.pop("accuracy", None)  # of margins that are 0 but for noise
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_rmsprop_gradient_checkpointing_bf16_and_offload_run(tmp_path: Path, model: Path) -> None:
    made = pairs_job(tmp_path / "a", model, "sppo", count=COUNT, optim="rmsprop", learning_rate=1e-4)
    _, metrics = train(made, kind="deepspeed", ranks=2, zero_stage=3, bf16=True, gradient_checkpointing=True)
    assert metrics[-1]["margin"] > metrics[0]["margin"]
    assert json.loads((made.out / "config.json").read_text())["dtype"] == "bfloat16"
    made = pairs_job(tmp_path / "b", model, count=COUNT)
    _, metrics = train(made, kind="deepspeed", ranks=2, zero_stage=2, offload_optimizer=True)
    assert metrics[-1]["loss"] < metrics[0]["loss"]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_killed_training_goes_on_where_it_was(tmp_path: Path, model: Path, stage: int) -> None:
    settings = {"kind": "deepspeed", "ranks": 2, "zero_stage": stage, "checkpoint_steps": 1}
    straight = pairs_job(tmp_path / "straight", model, count=COUNT, num_train_epochs=4)
    _, expected = train(straight, **settings)
    made = pairs_job(tmp_path / "killed", model, count=COUNT, num_train_epochs=4)
    (tmp_path / "job.pickle").write_bytes(pickle.dumps((made, settings)))
    code = "import pickle, sys; from tests.real.test_deepspeed import train; job, s = pickle.load(open(sys.argv[1], 'rb')); train(job, **s)"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "job.pickle")], env=environment)
    deadline = time.monotonic() + 180
    while not list(made.work.glob("checkpoint-0000000[3-9]")) and time.monotonic() < deadline:
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)  # the ranks die with their parent
    assert not list(made.out.iterdir())
    facts, metrics = train(made, **settings)
    assert 3 <= facts["resumed_at_step"] < 12
    assert metrics == expected
    assert (made.out / "model.safetensors").read_bytes() == (straight.out / "model.safetensors").read_bytes()


def test_other_ranks_than_it_was_begun_with_are_refused(tmp_path: Path, model: Path) -> None:
    from trainers.deepspeed import worker
    from training import checkpoint

    made = pairs_job(tmp_path, model, count=COUNT)
    begun = plugin.parse("trainers", {"kind": "deepspeed", "ranks": 2}).config
    (checkpoint.begin(made.work, 1) / "x").write_bytes(b"x")
    checkpoint.seal(made.work, 1, worker.maker(begun), [{}])
    with pytest.raises(Refusal, match="ranks=2.* the profile now says .*ranks=3"):
        train(made, kind="deepspeed", ranks=3)
