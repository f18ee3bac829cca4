"""Temporal Self-Rewarding beside Self-Rewarding on the demo's task: as many samples, training pairs and optimizer steps.

Per round Temporal (arXiv:2508.06026) draws 4 answers each of the past, the present and the future for B prompts and
trains twice; Self-Rewarding (arXiv:2401.10020) gets 2 B prompts with 6 answers each (4 in round one, where Temporal has
no present of its own) and trains once, on twice as many pairs. How many pairs a method makes depends on ties, so a
fixed number of them is drawn. Both papers let the policy judge itself; a model of 0.2 M parameters cannot, so an outside
judge (edit similarity with the answer) stands for it in both. Every round's pairs (Temporal's: those of its second
training) are diagnosed under the policy that enters the round. Half of Temporal's pairs train a model that is dropped:
`--halved` adds Self-Rewarding on as many samples with half the pairs, as many as reach Temporal's policy.
Run: python -m benchmarks.temporal [--seeds 3] [--rounds 4] [--prompts 384] [--learning-rate 1e-4] [--halved] [--runs FOLDER]
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import artifact, recipe, run
from pipeline.profile import load
from pipeline.recipe import find

JUDGE = {"kind": "similarity"}
ASK = {"stage": "generate", "temperature": 1.0, "max_new_tokens": 16}


@dataclass(frozen=True)
class Setting:
    rounds: int
    prompts: int
    """B."""
    learning_rate: float
    seed: int

    @property
    def pairs(self) -> int:
        """In each of Temporal's trainings: seven in twelve prompts give one, which neither method falls short of."""
        return self.prompts * 7 // 12

    def start(self, prompts: int) -> dict[str, Any]:
        """The demo's start, with `prompts` for each round."""
        nodes = recipe.read(find("demo", "recipes"))["start"]
        nodes["prompts"]["source"]["count"] = prompts * self.rounds
        return nodes

    def training(self, rows: str, reference: str) -> dict[str, Any]:
        objective = {"kind": "dpo", "beta": 0.5}
        shared = {"stage": "train", "model": "policy@prev", "objective": objective, "learning_rate": self.learning_rate, "batch_size": 32}
        return {**shared, "rows": rows, "reference": reference}

    def body(self, name: str, start: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
        nodes = {
            "batch": {"stage": "slice", "rows": "prompts", "parts": self.rounds},
            **nodes,
            "reference": {"stage": "logprobs", "model": "policy@prev", "rows": "pairs"},
            "policy": self.training("pairs", "reference"),
            "diagnosis": {"stage": "diagnose", "pairs": "pairs", "model": "policy@prev"},
            "samples": {**ASK, "model": "policy", "prompts": "held_out", "n": 4},
            "report": {"stage": "evaluate", "candidates": "samples", "against": "samples@start", "judge": JUDGE},
        }
        return {"name": name, "seed": self.seed, "rounds": self.rounds, "start": start, "round": nodes}


def self_rewarding(setting: Setting, halved: bool = False) -> dict[str, Any]:
    nodes = {
        "present": {**ASK, "model": "policy@prev", "prompts": "batch", "n": {"by_round": [4, 6]}},
        "judged": {"stage": "judge", "candidates": "present", "judge": JUDGE},
        "all_pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst"}},
        "pairs": {"stage": "benchmarks.draw", "rows": "all_pairs", "count": setting.pairs if halved else 2 * setting.pairs},
    }
    return setting.body("halved" if halved else "self-rewarding", setting.start(2 * setting.prompts), nodes)


def temporal(setting: Setting) -> dict[str, Any]:
    past = {"by_round": [None, "past"]}
    nodes = {
        "present": {**ASK, "stage": {"by_round": [None, "generate"]}, "model": "policy@prev", "prompts": "batch", "n": 4},
        "judged": {"stage": "judge", "candidates": {"by_round": ["past", ["past", "present"]]}, "prompts": "batch", "judge": JUDGE},
        "all_draft_pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "anchored", "past": past}},
        "draft_pairs": {"stage": "benchmarks.draw", "rows": "all_draft_pairs", "count": setting.pairs},
        "draft_reference": {"stage": "logprobs", "model": "policy@prev", "rows": "draft_pairs"},
        "future": {**setting.training("draft_pairs", "draft_reference"), "keep": False},
        "ahead": {**ASK, "model": "future", "prompts": "batch", "n": 4},
        "ahead_judged": {"stage": "judge", "candidates": "ahead", "judge": JUDGE},
        "all_pairs": {
            "stage": "pair",
            "judged": ["judged", "ahead_judged"],
            "rule": {"kind": "future_guided", "past": past, "ahead": "ahead"},
        },
        "pairs": {"stage": "benchmarks.draw", "rows": "all_pairs", "count": setting.pairs},
    }
    start = {**setting.start(setting.prompts), "past": {**ASK, "model": "policy", "prompts": "prompts", "n": 4}}
    return setting.body("temporal", start, nodes)


class Row(NamedTuple):
    """A round's numbers."""

    tokens: float
    made: float
    """Pairs, of both of Temporal's trainings."""
    used: float
    """Pairs trained on."""
    steps: float
    """Optimizer steps."""
    score_gap: float
    cosine: float
    distance: float
    accuracy: float


FORMATS = ("8,.0f", "6,.0f", "6,.0f", "5.0f", "7.3f", "7.3f", "7.3f", "8.3f")


def facts(folder: Path, address: str) -> dict[str, Any]:
    made = artifact.read(folder / address)
    return made.manifest.facts if made else {}


def measured(folder: Path, rounds: int) -> list[Row]:
    """A row for each round. The past answers every prompt in the start: its tokens are spread over the rounds."""
    past = facts(folder, "start/past").get("tokens", 0) / rounds
    found = []
    for at in (f"round-{number:02d}" for number in range(1, rounds + 1)):

        def added(fact: str, *nodes: str, at: str = at) -> float:
            return sum(facts(folder, f"{at}/{node}").get(fact, 0) for node in nodes)

        seen = facts(folder, f"{at}/diagnosis")
        gaps = (seen["mean_score_gap"], seen["representation_cosine"], seen["representation_distance"])
        accuracy = facts(folder, f"{at}/report")["accuracy"]
        tokens, made = past + added("tokens", "present", "ahead"), added("rows", "all_draft_pairs", "all_pairs")
        found.append(Row(tokens, made, added("rows", "draft_pairs", "pairs"), added("steps", "future", "policy"), *gaps, accuracy))
    return found


def told(row: Row) -> str:
    return "  ".join(format(value, shape) for value, shape in zip(row, FORMATS, strict=True))


def summary(rows: dict[str, list[list[Row]]]) -> None:
    """Means over seeds with the least and the greatest, and Temporal's lead seed by seed. `rows`: method -> seed -> round."""
    print("\nmean over seeds [least, greatest]")
    print(f"{'method':15} round  {'tokens':>8}  {'pairs used':>10}  {'score gap':22}  {'cosine':22}  {'distance':22}  accuracy")

    def spread(values: list[float]) -> str:
        return f"{sum(values) / len(values):6.3f} [{min(values):6.3f},{max(values):6.3f}]"

    for name, seeds in rows.items():
        for number, rounds in enumerate(zip(*seeds, strict=True), start=1):
            tokens, _, used, _, *rest = zip(*rounds, strict=True)
            head = f"{name:15} {number:5}  {sum(tokens) / len(tokens):8,.0f}  {sum(used) / len(used):10,.0f}"
            print(head, *(spread(list(values)) for values in rest), sep="  ")
        totals = [sum(row.tokens for row in seed) for seed in seeds]
        print(f"{name:15}   all  {sum(totals) / len(totals):8,.0f}  {sum(row.used for seed in seeds for row in seed) / len(seeds):10,.0f}")
    ours = rows.pop("temporal")
    for name, seeds in rows.items():
        print(f"\naccuracy of temporal minus that of {name}, by seed")
        for number in range(len(seeds[0])):
            leads = [mine[number].accuracy - theirs[number].accuracy for mine, theirs in zip(ours, seeds, strict=True)]
            print(f"round {number + 1}: {spread(leads)}   {', '.join(f'{lead:+.3f}' for lead in leads)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=384, help="B")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--halved", action="store_true", help="add Self-Rewarding on half the pairs")
    parser.add_argument("--runs", type=Path, help="keep the runs below this folder, and go on with what is there")
    options = parser.parse_args()
    rows: dict[str, list[list[Row]]] = {}
    heads = zip(("tokens", "pairs", "used", "steps", "gap", "cosine", "dist.", "accuracy"), FORMATS, strict=True)
    print(f"{'method':15} seed round  {'  '.join(format(head, '>' + shape[0]) for head, shape in heads)}", flush=True)
    with tempfile.TemporaryDirectory() as base:
        for seed in range(options.seeds):
            setting = Setting(options.rounds, options.prompts, options.learning_rate, seed)
            bodies = [self_rewarding(setting), temporal(setting)] + [self_rewarding(setting, halved=True)] * options.halved
            for body in bodies:
                folder = (options.runs or Path(base)) / f"{body['name']}-{seed}"
                run.run(recipe.make(body, body["name"]), load(find("laptop", "profiles")), folder)
                found = measured(folder, options.rounds)
                rows.setdefault(body["name"], []).append(found)
                print(f"{body['name']:15} {seed:4} start {'':62} {facts(folder, 'start/report')['accuracy']:8.3f}")
                for number, row in enumerate(found, start=1):
                    print(f"{body['name']:15} {seed:4} {number:5}  {told(row)}", flush=True)
    summary(rows)


if __name__ == "__main__":
    main()
