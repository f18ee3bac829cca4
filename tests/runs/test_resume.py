"""A training that is killed goes on where it was, and ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import Refusal
from tests.support.training_jobs import digests
from tests.trainers.test_training import model, pairs_job, train
from training import checkpoint

__all__ = ["model"]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    maker = {"trainer": "torch", "dtype": "float32"}
    for step in (1, 2, 3):
        (checkpoint.begin(tmp_path, step) / "weights").write_bytes(bytes([step]) * 100)
        checkpoint.seal(tmp_path, step, maker, [{"loss": float(step)}])
    assert sorted(path.name for path in tmp_path.glob("*")) == ["checkpoint-00000002", "checkpoint-00000003"]
    checkpoint.begin(tmp_path, 4)
    found = checkpoint.newest(tmp_path, maker)
    assert found is not None and found.step == 3 and found.metrics == [{"loss": 3.0}]
    (tmp_path / "checkpoint-00000003" / "weights").write_bytes(b"damaged")
    found = checkpoint.newest(tmp_path, maker)
    assert found is not None and found.step == 2
    with pytest.raises(Refusal, match="begun with trainer=torch, dtype=float32 and the profile now says trainer=torch, dtype=bfloat16"):
        checkpoint.newest(tmp_path, {"trainer": "torch", "dtype": "bfloat16"})


def test_resume_after_a_kill_gives_the_same_bytes(tmp_path: Path, model: Path) -> None:
    settings = {"num_train_epochs": 8, "warmup_ratio": 0.1, "weight_decay": 0.01}  # 24 steps
    straight = pairs_job(tmp_path / "straight", model, "sppo", **settings)
    train(straight)
    made = pairs_job(tmp_path / "killed", model, "sppo", **settings)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    arguments = [str(tmp_path / "killed"), str(model), json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, str(script), *arguments, "0.25"], env=environment)
    deadline = time.monotonic() + 120
    while not (made.work / "checkpoint-00000006").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(made.out.iterdir())
    facts, _ = train(made, checkpoint_steps=2)
    assert 6 <= facts["resumed_at_step"] < 24
    assert digests(made.out) == digests(straight.out)


SCRIPT = """
import json, sys, time
from pathlib import Path
from types import SimpleNamespace
from pipeline import plugin
import trainers.torch
from models import Model
from training.job import Job, Optimisation

folder, model = Path(sys.argv[1]), Path(sys.argv[2])
optimisation = Optimisation(**{"learning_rate": 1e-3, "batch_size": 8, "max_length": 128, **json.loads(sys.argv[3])})
objective = plugin.parse("objectives", "sppo")
job = Job(folder / "rows", "pairs", folder / "reference", Model(model), folder / "out", folder / "work", objective, optimisation, 7)
tools = SimpleNamespace(address="x", report=lambda address, done, total: time.sleep(float(sys.argv[4])), event=lambda kind, **told: None)
trainers.torch.train(trainers.torch.Config(threads=1, checkpoint_steps=2), job, tools)
"""
