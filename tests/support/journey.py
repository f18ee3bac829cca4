"""One round on a tiny model, and the check that tokens and log-probabilities survive the whole way through it."""

from pathlib import Path

import pytest

from pipeline import artifact, recipe, rows, run
from pipeline.profile import Profile


def walk(folder: Path, engine: dict, *, bos: bool) -> None:
    """What was sampled is what is trained on, and the trainer's forward gives it the log-probability the engine gave it."""
    body = {
        "name": "journey",
        "rounds": 1,
        "start": {
            "prompts": {"stage": "prompts", "source": {"kind": "letters", "count": 24}},
            "policy": {
                "stage": "init",
                "model": {
                    "model_type": "llama",
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 1,
                    "num_key_value_heads": 1,
                    "max_position_embeddings": 128,
                },
                "alphabet": "abcdefgh",
                "bos": bos,
            },
        },
        "round": {
            "candidates": {"stage": "generate", "model": "policy@prev", "prompts": "prompts", "n": 3, "max_new_tokens": 12},
            "judged": {"stage": "judge", "candidates": "candidates", "judge": "similarity"},
            "pairs": {"stage": "pair", "judged": "judged", "rule": "best_vs_worst"},
            "scored": {"stage": "logprobs", "model": "policy@prev", "rows": "candidates"},
            "reference": {"stage": "logprobs", "model": "policy@prev", "rows": "pairs"},
            "policy": {"stage": "train", "model": "policy@prev", "rows": "pairs", "reference": "reference", "objective": "dpo"},
        },
    }
    profile = Profile.model_validate({"name": "journey", "engine": engine, "trainer": {"kind": "torch"}})
    run.run(recipe.make(body, "journey"), profile, folder)

    sampled = {row["id"]: row for row in rows.read(folder / "round-01/candidates").to_pylist()}
    scored = rows.read(folder / "round-01/scored").to_pylist()
    for row in scored:
        for response, logprobs in zip(sampled[row["id"]]["responses"], row["logprobs"], strict=True):
            assert len(response["token_ids"]) == len(logprobs)
            assert sum(logprobs) == pytest.approx(response["logprob"], abs=1e-3)
    ends = [r["token_ids"][-1] for row in sampled.values() for r in row["responses"] if r["finish_reason"] == "stop"]
    assert ends and len(set(ends)) == 1, "an ended response keeps its end-of-turn token"

    pairs = rows.read(folder / "round-01/pairs").to_pylist()
    for pair in pairs:
        row = sampled[pair["prompt_id"]]
        ids = [tuple(response["token_ids"]) for response in row["responses"]]
        assert tuple(pair["chosen_token_ids"]) in ids and tuple(pair["rejected_token_ids"]) in ids
        assert pair["prompt_token_ids"] == row["prompt_token_ids"]
        begin = [token for token in pair["prompt_token_ids"] if token == pair["prompt_token_ids"][0]]
        assert not bos or len(begin) == 1, "one BOS, at the front"
    trained = artifact.read(folder / "round-01/policy")
    assert trained is not None
    assert trained.manifest.facts["retokenised"] == 0
    assert trained.manifest.facts["loss_first"] == pytest.approx(0.6931472, abs=1e-6)
