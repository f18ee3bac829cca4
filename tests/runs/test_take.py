"""Rows that were taken in train as rows that a run made: exported, taken back, and the same to the last bit."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import artifact, cli, rows
from tests.support.models import tiny_llama

PROFILE = {
    "name": "test",
    "engine": {"kind": "transformers", "threads": 1},
    "trainer": {"kind": "torch", "threads": 1},
    "forward": {"tokens_per_batch": 400},
}
TRAINED: dict[str, Any] = {
    "reference": {"stage": "logprobs", "model": "policy@prev", "rows": "pairs", "max_length": 128},
    "policy": {
        "stage": "train",
        "model": "policy@prev",
        "rows": "pairs",
        "reference": "reference",
        "objective": {"kind": "dpo"},
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_length": 128,
    },
}
MADE: dict[str, Any] = {
    "candidates": {"stage": "generate", "model": "policy@prev", "prompts": "prompts", "n": 3, "max_new_tokens": 12},
    "judged": {"stage": "judge", "candidates": "candidates", "judge": {"kind": "length"}},
    "pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst", "truncated": "keep"}},
}


def start() -> dict[str, Any]:
    return {"policy": {"stage": "adopt", "model": "model"}, "prompts": {"stage": "prompts", "source": {"kind": "letters", "count": 10}}}


def said(command: str) -> None:
    assert cli.call(shlex.split(command)) == 0


def run(name: str, body: dict[str, Any]) -> Path:
    Path(f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "rounds": 1, "start": start(), "round": body}, sort_keys=False))
    said(f"run {name}.yaml -p test.yaml")
    return Path("runs") / name / "round-01"


def digest(path: Path) -> str:
    made = artifact.read(path, verify=True)
    assert made is not None
    return made.manifest.digest


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round over a real model, and its tables exported both ways."""
    place = tmp_path_factory.mktemp("taken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        tiny_llama(place / "model")
        (place / "test.yaml").write_text(yaml.safe_dump(PROFILE))
        run("made", {**MADE, **TRAINED})
        for node in ("pairs", "judged", "candidates"):
            said(f"export made round-01/{node} --to {node}.jsonl")
            said(f"export made round-01/{node} --to {node}-folder")
    return place


@pytest.fixture(autouse=True)
def inside(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)


SOURCES = {
    "jsonl": {"kind": "jsonl", "path": "pairs.jsonl"},
    "exported folder": {"kind": "parquet", "path": "pairs-folder"},
    "artifact": {"kind": "parquet", "path": "runs/made/round-01/pairs"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_pairs_taken_back_train_the_same_policy(source: str) -> None:
    taken = run(source.replace(" ", "-"), {"pairs": {"stage": "take", "table": "pairs", "source": SOURCES[source]}, **TRAINED})
    facts = json.loads((taken / "pairs/manifest.json").read_text())["facts"]
    original = Path("runs/made/round-01")
    assert facts["shape"] == "rematch" and facts["rows"] == facts["read"] == rows.count(original / "pairs") and not facts["dropped"]
    assert rows.read(original / "pairs")["chosen_token_ids"].null_count == 0
    for node in ("pairs", "reference", "policy"):
        assert digest(taken / node) == digest(original / node), node


@pytest.mark.parametrize("table", ["judged", "candidates"])
def test_groups_taken_back_are_the_same_bytes(table: str) -> None:
    body = {
        name: {"stage": "take", "table": table, "source": source}
        for name, source in {
            "lines": {"kind": "jsonl", "path": f"{table}.jsonl"},
            "folder": {"kind": "parquet", "path": f"{table}-folder/data/train-*.parquet"},
        }.items()
    }
    taken = run(f"taken-{table}", body)
    assert digest(taken / "lines") == digest(taken / "folder") == digest(Path("runs/made/round-01") / table)


ULTRAFEEDBACK = [
    {
        "source": "evol_instruct",
        "instruction": f"sort {word}",
        "models": ["m0", "m1", "m2"],
        "completions": [
            {
                "annotations": {"helpfulness": {"Rating": str(3 - at), "Rationale": "so"}, "honesty": {"Rating": "N/A", "Rationale": ""}},
                "custom_system_prompt": "be kind",
                "model": f"m{at}",
                "principle": "helpfulness",
                "response": text,
                "critique": "fine",
                "fine-grained_score": 2.5 + at,
                "overall_score": 4.0 + 2 * at,
            }
            for at, text in enumerate((word[::-1], word.upper(), "".join(sorted(word))))
        ],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }
    for word in ("cab", "fade", "beg", "head")
]
HELPSTEER = [
    {"prompt": f"sort {word}", "response": text, "helpfulness": at, "correctness": 4 - at, "coherence": 4, "complexity": 1, "verbosity": 2}
    for word in ("cab", "fade", "beg", "head")
    for at, text in enumerate((word[::-1], word.upper(), "".join(sorted(word))))
]


@pytest.mark.parametrize(
    "shape, lines, asked, best",
    [
        ("ultrafeedback", ULTRAFEEDBACK, {}, ("abc", 8.0, 4.0)),
        ("ultrafeedback", ULTRAFEEDBACK, {"score": "helpfulness"}, ("bac", 3.0, 1.0)),
        ("helpsteer", HELPSTEER, {}, ("abc", 2.0, 0.0)),
        ("helpsteer", HELPSTEER, {"score": {"correctness": 1.0, "coherence": 0.5}}, ("bac", 6.0, 4.0)),
    ],
    ids=["ultrafeedback", "ultrafeedback-helpfulness", "helpsteer", "helpsteer-sum"],
)
def test_rated_datasets_are_paired_and_trained_on(shape: str, lines: list[Any], asked: dict[str, Any], best: tuple[Any, ...]) -> None:
    Path("rated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = {"stage": "take", "table": "judged", "source": {"kind": "jsonl", "path": "rated.jsonl"}, **asked}
    name = f"{shape}-{len(asked)}"
    made = run(name, {"judged": judged, "pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst"}}, **TRAINED})
    facts = json.loads((made / "judged/manifest.json").read_text())["facts"]
    assert facts["shape"] == shape and facts["rows"] == 4 and facts["read"] == len(lines) == 4 + facts["merged"]
    row = rows.read(made / "pairs").to_pylist()[0]
    assert (row["chosen"][0]["content"], row["chosen_score"], row["rejected_score"]) == best
    trained = json.loads((made / "policy/manifest.json").read_text())["facts"]
    assert trained["rows"] == trained["units"] == 4
