"""A run of two rounds that loads no model: the canned engine writes the responses. For tests of what is shown of runs."""

import os
from pathlib import Path
from typing import Any

import yaml

from pipeline import cli

PROFILE = {"name": "test", "engine": "canned", "trainer": "tests.support.plugins.idle", "rows_per_shard": 4, "reuse": "none"}


def recipe(model: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "rounds": 2,
        "start": {
            "policy": {"stage": "adopt", "model": str(model)},
            "prompts": {"stage": "prompts", "source": {"kind": "letters", "count": 10}},
        },
        "round": {
            "candidates": {"stage": "generate", "model": "policy", "prompts": "prompts", "n": 3, "max_new_tokens": 64},
            "judged": {"stage": "judge", "candidates": "candidates", "judge": {"kind": "length"}},
            "pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst"}},
            "report": {"stage": "evaluate", "candidates": "candidates", "judge": {"kind": "length"}},
        },
    }


def lay_out(place: Path) -> None:
    """A model folder that holds no model (the canned engine reads none), a recipe and a profile."""
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text("{}")
    (place / "model" / "model.safetensors").write_bytes(b"")
    (place / "tiny.yaml").write_text(yaml.safe_dump(recipe(place / "model"), sort_keys=False))
    (place / "test.yaml").write_text(yaml.safe_dump(PROFILE, sort_keys=False))


def finish(place: Path) -> None:
    """Run the recipe that lies in `place` to its end, from there."""
    before = Path.cwd()
    os.chdir(place)
    try:
        assert cli.call(["run", "tiny.yaml", "--profile", "test.yaml"]) == 0
    finally:
        os.chdir(before)
