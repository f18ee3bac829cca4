"""Temporal Self-Rewarding beside Self-Rewarding on the demo's task: the same generated tokens and training pairs.

Per round Temporal (arXiv:2508.06026) draws 4 answers each of the past, the present and the future for B prompts and
trains twice; Self-Rewarding (arXiv:2401.10020) gets 2 B prompts with 6 answers each (4 in round one, where Temporal has
no present of its own) and trains once. Both papers let the policy judge itself; a model of 0.2 M parameters cannot, so
an outside judge (edit similarity with the answer) stands for it in both. Every round's pairs are diagnosed under the
policy that enters it. Run: python benchmarks/temporal.py [--seeds 3] [--rounds 4]
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from pipeline import artifact, recipe, run
from pipeline.profile import load
from pipeline.recipe import find

PROMPTS = 384
"""B."""
JUDGE = {"kind": "similarity"}
ASK = {"stage": "generate", "temperature": 1.0, "max_new_tokens": 16}
TRAIN = {"stage": "train", "model": "policy@prev", "objective": {"kind": "dpo", "beta": 0.5}, "learning_rate": 1.0e-4, "batch_size": 32}


def start(count: int, rounds: int) -> dict[str, Any]:
    """The demo's start, with `count` prompts for each round."""
    nodes = recipe.read(find("demo", "recipes"))["start"]
    nodes["prompts"]["source"]["count"] = count * rounds
    return nodes


def report() -> dict[str, Any]:
    return {
        "diagnosis": {"stage": "diagnose", "pairs": "pairs", "model": "policy@prev"},
        "samples": {**ASK, "model": "policy", "prompts": "held_out", "n": 4},
        "report": {"stage": "evaluate", "candidates": "samples", "against": "samples@start", "judge": JUDGE},
    }


def self_rewarding(seed: int, rounds: int) -> dict[str, Any]:
    nodes = {
        "batch": {"stage": "slice", "rows": "prompts", "parts": rounds},
        "present": {**ASK, "model": "policy@prev", "prompts": "batch", "n": {"by_round": [4, 6]}},
        "judged": {"stage": "judge", "candidates": "present", "judge": JUDGE},
        "pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst"}},
        "reference": {"stage": "logprobs", "model": "policy@prev", "rows": "pairs"},
        "policy": {**TRAIN, "rows": "pairs", "reference": "reference"},
    }
    return {"name": "self-rewarding", "seed": seed, "rounds": rounds, "start": start(2 * PROMPTS, rounds), "round": {**nodes, **report()}}


def temporal(seed: int, rounds: int) -> dict[str, Any]:
    past = {"by_round": [None, "past"]}
    nodes = {
        "batch": {"stage": "slice", "rows": "prompts", "parts": rounds},
        "present": {**ASK, "stage": {"by_round": [None, "generate"]}, "model": "policy@prev", "prompts": "batch", "n": 4},
        "judged": {"stage": "judge", "candidates": {"by_round": ["past", ["past", "present"]]}, "prompts": "batch", "judge": JUDGE},
        "draft_pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "anchored", "past": past}},
        "draft_reference": {"stage": "logprobs", "model": "policy@prev", "rows": "draft_pairs"},
        "future": {**TRAIN, "rows": "draft_pairs", "reference": "draft_reference", "keep": False},
        "ahead": {**ASK, "model": "future", "prompts": "batch", "n": 4},
        "ahead_judged": {"stage": "judge", "candidates": "ahead", "judge": JUDGE},
        "pairs": {"stage": "pair", "judged": ["judged", "ahead_judged"], "rule": {"kind": "future_guided", "past": past, "ahead": "ahead"}},
        "reference": {"stage": "logprobs", "model": "policy@prev", "rows": "pairs"},
        "policy": {**TRAIN, "rows": "pairs", "reference": "reference"},
    }
    nodes_of_start = {**start(PROMPTS, rounds), "past": {**ASK, "model": "policy", "prompts": "prompts", "n": 4}}
    return {"name": "temporal", "seed": seed, "rounds": rounds, "start": nodes_of_start, "round": {**nodes, **report()}}


def facts(folder: Path, address: str) -> dict[str, Any]:
    made = artifact.read(folder / address)
    return made.manifest.facts if made else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    print(f"{'method':15} seed round   tokens  pairs  score gap  repr. cosine  repr. distance  accuracy", flush=True)
    with tempfile.TemporaryDirectory() as base:
        for seed in range(options.seeds):
            for make in (self_rewarding, temporal):
                folder = Path(base) / f"{make.__name__}-{seed}"
                body = make(seed, options.rounds)
                run.run(recipe.make(body, body["name"]), load(find("laptop", "profiles")), folder)
                print(f"{body['name']:15} {seed:4} start {'':58} {facts(folder, 'start/report')['accuracy']:9.3f}")
                # The past answers every prompt in the start: its tokens are spread over the rounds.
                past = facts(folder, "start/past").get("tokens", 0) / options.rounds
                for r in range(1, options.rounds + 1):
                    at = f"round-{r:02d}"
                    tokens = past + sum(facts(folder, f"{at}/{node}").get("tokens", 0) for node in ("present", "ahead"))
                    pairs = sum(facts(folder, f"{at}/{node}").get("rows", 0) for node in ("draft_pairs", "pairs"))
                    seen, report = facts(folder, f"{at}/diagnosis"), facts(folder, f"{at}/report")
                    print(
                        f"{body['name']:15} {seed:4} {r:5} {tokens:8,.0f} {pairs:6,} {seen['mean_score_gap']:10.3f}"
                        f" {seen['representation_cosine']:13.3f} {seen['representation_distance']:15.3f} {report['accuracy']:9.3f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
