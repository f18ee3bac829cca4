"""Key phrases and their deletion, and the objective that reads it."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import trainers.torch as torch_trainer
from objectives import spo_degree
from pipeline import rows
from pipeline.errors import Refusal
from stages import delete_phrases
from tests.support import steps
from tests.support.models import tiny_llama
from tests.support.training_jobs import pair_row, pairs_job
from training import data

TEXT = "Linear constraints over natural numbers are criteria for linear systems. The sky, and the linear sky."


def test_phrases_stand_between_function_words_and_punctuation() -> None:
    words = [each for each, _ in delete_phrases.phrases(TEXT)]
    assert words == [("linear", "constraints"), ("natural", "numbers"), ("criteria",), ("linear", "systems"), ("sky",), ("linear", "sky")]
    scores = delete_phrases.scored(words)
    assert scores["linear"] == 6 / 3 and scores["criteria"] == 1 and scores["sky"] == 3 / 2
    assert all(TEXT[a:b].lower().split() == list(each) for each, (a, b) in delete_phrases.phrases(TEXT))


def test_the_least_phrases_go_first_and_all_at_last() -> None:
    assert delete_phrases.without(TEXT, 0) == TEXT
    assert delete_phrases.without(TEXT, 1 / 6) == TEXT.replace(" criteria", "")  # the lowest score: 1
    assert delete_phrases.without(TEXT, 1) == "over are for. The, and the."
    assert delete_phrases.without("of the", 1) == "of the" and delete_phrases.without("", 1) == ""


def test_one_degree_for_each_pair_whatever_the_shards(tmp_path: Path) -> None:
    body = [{**pair_row(i), "chosen": [{"role": "assistant", "content": TEXT}]} for i in range(40)]
    source = {"rows": steps.table(tmp_path / "pairs", "pairs", body)}
    made = [steps.build(tmp_path / str(n) / "gone", "delete_phrases", {"side": "chosen"}, source, rows_per_shard=n) for n in (7, 1000)]
    assert made[0].manifest.digest == made[1].manifest.digest
    facts = made[0].manifest.facts
    assert facts["rows"] == sum(facts["degrees"]) == 40 and min(facts["degrees"]) > 0
    assert facts["characters_left"][0] == 1 and facts["characters_left"] == sorted(facts["characters_left"], reverse=True)
    table = rows.read(made[0].path)
    assert table["id"].to_pylist() == [row["id"] for row in body]
    assert pq.read_schema(rows.files(made[0].path)[0]).names == rows.TABLES["candidates"].names


def test_heads_learn_to_tell_degrees_and_do_not_stay(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    made = pairs_job(tmp_path / "job", model, {"kind": "spo_degree", "weight": 1.0}, num_train_epochs=8, learning_rate=1e-2)
    torch.set_num_threads(1)
    tools = steps.tools(tmp_path / "policy")
    facts = torch_trainer.train(torch_trainer.Config(threads=1), made, tools)
    assert facts["loss_first"] == pytest.approx(math.log(2) + 2 * math.log(4), abs=1e-3)
    assert facts["degree_accuracy_last"] > 0.6
    assert not [name for name in load_file(made.out / "model.safetensors") if "head" in name and "lm_head" not in name]
    with pytest.raises(Refusal, match="has degree 3, and the objective tells 3 of them apart"):
        data.read(pairs_job(tmp_path / "three", model, {"kind": "spo_degree", "degrees": 3}))
    assert spo_degree.degrees(spo_degree.Config()) == 4
