"""Pairs per second of DPO training: rematch's torch trainer beside TRL's DPOTrainer, on the same rows in one go.

A byte-level Llama of 6 layers and width 256, prompts of 100 to 400 bytes, responses of 30 to 300, batch 8, float32,
reference log-probabilities computed before. Seconds of ours are those of the whole step: loading, tokenising,
training, saving. TRL's are those of `train()` alone, with and without its pass over the reference.
Needs trl (`make bench` installs it). Run: python -m benchmarks.training [--pairs 128]
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from pipeline import artifact, recipe, run
from pipeline.profile import Profile

BATCH = 8
LEARNING_RATE = 1e-5


def body(source: str) -> dict:
    model = {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
    }
    training = {"learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "batch_size": BATCH, "max_length": 1024}
    return {
        "name": "training",
        "rounds": 1,
        "start": {
            "policy": {"stage": "init", "model": model},
            "prompts": {"stage": "prompts", "source": {"kind": "jsonl", "path": source}},
        },
        "round": {
            "candidates": {"stage": "generate", "model": "policy@prev", "prompts": "prompts", "n": 2, "max_new_tokens": 300},
            "judged": {"stage": "judge", "candidates": "candidates", "judge": "length"},
            "pairs": {"stage": "pair", "judged": "judged", "rule": "best_vs_worst"},
            "reference": {"stage": "logprobs", "model": "policy@prev", "rows": "pairs"},
            "policy": {
                "stage": "train",
                "model": "policy@prev",
                "rows": "pairs",
                "reference": "reference",
                "objective": "dpo",
                **training,
            },
        },
    }


def text(draw: random.Random, low: int, high: int) -> str:
    """Words of random letters, `low` to `high` bytes in all."""
    letters = [draw.choice("abcdefghijklmnopqrstuvwxyz    ") for _ in range(draw.randint(low, high))]
    return "".join(letters).strip() or "a"


def ours(base: Path, pairs: int) -> tuple[Path, float, float, int]:
    """The run's folder, seconds of the reference and of training, and how many pairs there were."""
    draw = random.Random(0)
    lines = [json.dumps({"prompt": f"{i} {text(draw, 100, 400)}"}) for i in range(pairs)]
    (base / "prompts.jsonl").write_text("\n".join(lines))
    answers = tuple(text(draw, 30, 300) for _ in range(64))
    profile = Profile.model_validate(
        {"name": "training", "engine": {"kind": "canned", "responses": answers}, "trainer": {"kind": "torch", "tokens_per_device": 4096}}
    )
    run.run(recipe.make(body(str(base / "prompts.jsonl")), "training"), profile, base / "r")
    found = {}
    for node in ("pairs", "reference", "policy"):
        made = artifact.read(base / "r/round-01" / node)
        assert made is not None
        found[node] = made.manifest
    return (
        base / "r",
        found["reference"].provenance["seconds"],
        found["policy"].provenance["seconds"],
        found["pairs"].facts["rows"],
    )


def theirs(folder: Path, base: Path, *, precomputed: bool) -> float:
    """Seconds of TRL's train(), its pass over the reference done before (`precomputed`) or at every step."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = datasets.load_dataset(
        "parquet", data_files=str(folder / "round-01/pairs/*.parquet"), split="train", cache_dir=str(base / "cache")
    )
    config = DPOConfig(
        output_dir=str(base / "trl"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_length=1024,
        precompute_ref_log_probs=precomputed,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "start/policy", dtype="float32")
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(folder / "start/policy")
    )
    if precomputed:
        trainer.get_train_dataloader()  # computes them, where it does so lazily
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made, reference, training, pairs = ours(Path(folder), options.pairs)
        live = theirs(made, Path(folder), precomputed=False)
        before = theirs(made, Path(folder), precomputed=True)
    print(f"{pairs} pairs                           pairs/s   ours is faster by")
    print(f"rematch, training step            {pairs / training:7.2f}")
    print(f"rematch, with its reference pass  {pairs / (training + reference):7.2f}")
    print(f"TRL, reference at every step      {pairs / live:7.2f}   {live / (training + reference):.2f}")
    print(f"TRL, reference computed before    {pairs / before:7.2f}   {before / training:.2f}")


if __name__ == "__main__":
    main()
