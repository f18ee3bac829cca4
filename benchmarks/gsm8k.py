"""GSM8K's real prompts through one round on a tiny model with real engines: nothing dropped, counts add up.

Needs GSM8K's train.jsonl (MIT; {"question", "answer"} lines, 7,473 of them), which rematch does not ship.
Run: python benchmarks/gsm8k.py path/to/train.jsonl [--profile laptop]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline import artifact, recipe, rows, run
from pipeline.profile import load
from pipeline.recipe import find


def body(path: str) -> dict[str, Any]:
    return {
        "name": "gsm8k",
        "rounds": 1,
        "start": {
            "prompts": {"stage": "prompts", "source": {"kind": "jsonl", "path": path, "column": "question", "answer": "answer"}},
            "policy": {
                "stage": "init",
                "model": {
                    "model_type": "llama",
                    "hidden_size": 64,
                    "intermediate_size": 128,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 4,
                    "max_position_embeddings": 2048,
                },
            },
        },
        "round": {
            "candidates": {"stage": "generate", "model": "policy@prev", "prompts": "prompts", "n": 2, "max_new_tokens": 8},
            "exact": {"stage": "judge", "candidates": "candidates", "judge": {"kind": "exact_answer"}},
            # An untrained model never answers right, so every exact verdict is a tie: pairs come from a similarity.
            "judged": {"stage": "judge", "candidates": "candidates", "judge": {"kind": "similarity"}},
            "pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst"}},
            "reference": {"stage": "logprobs", "model": "policy@prev", "rows": "pairs"},
            "policy": {
                "stage": "train",
                "model": "policy@prev",
                "rows": "pairs",
                "reference": "reference",
                "objective": {"kind": "dpo"},
                "max_length": 2048,
            },
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--profile", default="laptop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run.run(recipe.make(body(options.path), "gsm8k"), load(find(options.profile, "profiles")), Path(folder) / "r")
        print(f"one round: {time.perf_counter() - began:.0f} s")
        facts = {}
        for address in (
            "start/prompts",
            *(f"round-01/{node}" for node in ("candidates", "exact", "judged", "pairs", "reference", "policy")),
        ):
            made = artifact.read(Path(folder) / "r" / address, verify=True)
            assert made is not None
            facts[address] = made.manifest.facts
            print(f"{address:20} {made.manifest.provenance['seconds']:7.1f} s  {made.manifest.facts}")
        lines = sum(1 for line in Path(options.path).read_text().splitlines() if line.strip())
        tables = ("start/prompts", "round-01/candidates", "round-01/judged")
        ids = {address: set(rows.read(Path(folder) / "r" / address, ["id"])["id"].to_pylist()) for address in tables}
        assert len(set(map(frozenset, ids.values()))) == 1, "a table lost or gained a prompt"
        assert facts["start/prompts"]["rows"] + facts["start/prompts"].get("duplicates", 0) == lines
        pairs = facts["round-01/pairs"]
        assert pairs["rows"] + sum(pairs["dropped"].values()) == len(ids["round-01/judged"]), pairs
        assert facts["round-01/reference"]["rows"] == pairs["rows"]
        print(f"{lines} lines, {len(ids['start/prompts'])} prompts in every table, {pairs['rows']} pairs; no prompt is unaccounted for")


if __name__ == "__main__":
    main()
