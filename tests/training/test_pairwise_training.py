"""Objectives of pairs through a real training: likelihood terms over tokens, single rows, and scores that compare lengths."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import tiny_llama
from tests.support.training_jobs import pairs_job
from tests.trainers.test_training import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), tied=True)


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "rpo", "beta": 0.1, "nll_weight": 1.0},
        {"kind": "rpo", "beta": 0.1, "nll_weight": 1.0, "nll_reduction": "seq_mean"},
        {"kind": "orpo"},
        {"kind": "apo_zero", "unpaired": True},
        {"kind": "dpo", "ld_alpha": 0.5, "divergence": "js"},
        {"kind": "power"},
    ],
    ids=lambda objective: "-".join(str(value) for value in objective.values()),
)
def test_training_learns_and_micro_batches_change_nothing_but_noise(tmp_path: Path, model: Path, objective: dict[str, Any]) -> None:
    _, one = train(pairs_job(tmp_path / "a", model, objective, num_train_epochs=2))
    _, other = train(pairs_job(tmp_path / "b", model, objective, num_train_epochs=2), tokens_per_device=40)
    assert one[-1]["loss"] < one[0]["loss"]
    for a, b in zip(one, other, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)


def test_the_likelihood_is_a_mean_over_the_chosen_tokens_of_the_step(tmp_path: Path, model: Path) -> None:
    _, sft = train(pairs_job(tmp_path / "sft", model, "sft", batch_size=20))
    _, rpo = train(pairs_job(tmp_path / "rpo", model, {"kind": "rpo", "nll_weight": 0.5}, batch_size=20))
    assert rpo[0]["loss"] == pytest.approx(math.log(2) + 0.5 * sft[0]["loss"], rel=1e-5)
