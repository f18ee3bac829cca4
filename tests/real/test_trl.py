"""A round's pairs, as they lie on disk, train TRL's DPOTrainer: no column is renamed, dropped or converted."""

import pytest

from tests.support.models import tiny_llama
from tests.support.steps import build, candidates, table

pytestmark = pytest.mark.real


def test_pairs_train_trl_unchanged(tmp_path):
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    texts = {f"p{i}": [f"answer {i} in full", "no", "maybe so"] for i in range(8)}
    source = table(tmp_path / "candidates", "candidates", candidates(texts))
    judged = build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": source})
    pairs = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst"}, {"judged": judged})

    rows = datasets.load_dataset("parquet", data_files=str(pairs.path / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 8 and rows[0]["chosen"] == [{"role": "assistant", "content": "answer 0 in full", "tool_calls": None}]
    folder = tiny_llama(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    config = DPOConfig(
        output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none", use_cpu=True,
        save_strategy="no", bf16=False, gradient_checkpointing=False, logging_steps=1,
    )  # fmt: skip
    trainer = DPOTrainer(model=model, args=config, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(folder))
    trainer.train()
    (loss,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # Policy and reference are still the same model: DPO's loss is ln 2 at its first step.
    assert loss == pytest.approx(0.6931, abs=1e-3)
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
