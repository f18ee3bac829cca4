"""Shipped recipes at the size of a test: the same graphs and settings, over models of a few thousand weights.

Models are made by `init`, prompts are letters to sort, generation is by transformers and training by torch, all on the
CPU. A judge that is a language model is the tiny model itself, whose expected grade is read from its probabilities;
DNO's joint grades, which no such model can write, come from a script. Outside judges become `similarity`.
"""

import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import recipe, run
from pipeline.build import Context
from pipeline.profile import Profile
from pipeline.recipe import Recipe
from tests.core import digests

NEW = ("dno", "self-rewarding", "meta-rewarding", "temporal-self-rewarding")
PROMPTS = 6
"""In each round."""
MODEL = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 2048, "initializer_range": 0.3,
}  # fmt: skip
GRADES = tuple(
    "\n".join(f"id{at}_justification: it will do\nid{at}_score: {score}" for at, score in enumerate(scores, start=1))
    for scores in ((6, 5, 3, 4, 1, 2), (1, 6, 2, 5, 5, 3), (5, 1, 6, 1, 2, 4))
)


def tiny(name: str, rounds: int) -> Recipe:
    """A shipped recipe, shrunk."""
    body = recipe.read(recipe.find(name, "recipes"))
    parts = body["round"]["batch"]["parts"]
    for node in [*body["start"].values(), *body["round"].values()]:
        _shrink(node, PROMPTS * parts)
    return recipe.make({**body, "rounds": rounds}, name)


def _shrink(node: dict[str, Any], count: int) -> None:
    stage = node["stage"]
    if stage == "adopt":
        node.clear()
        node.update(stage="init", model=MODEL)
    elif stage == "prompts":
        split, count = ("held_out", 3) if node.get("take") == 512 else ("train", count)
        node.clear()
        node.update(stage="prompts", source={"kind": "letters", "split": split, "count": count})
    elif "max_new_tokens" in node:
        node["max_new_tokens"] = 6
    elif stage == "train":
        node.update(learning_rate=1e-3, batch_size=4, num_train_epochs=1, max_length=64)
    elif stage in ("judge", "evaluate"):
        judge = node["judge"]
        if judge["kind"] == "pairrm":
            node["judge"] = {"kind": "similarity"}
        elif judge["kind"] == "rubric":
            read = {"read": "probabilities", "rubric": "How good? {low} to {high}.", "scores": [0, 5]}
            node["judge"] = {"kind": "rubric", "model": judge["model"], **read}
        if stage == "judge":
            node.update(position_rate=None, limits={})  # what these judges say is made up
    elif stage == "pair" and node["rule"]["kind"] == "margin":
        node["rule"]["teacher"] = "teacher"


def profile(folder: Path) -> Profile:
    body = {
        "name": "tiny",
        "engine": {"kind": "transformers", "threads": 1},
        "trainer": {"kind": "torch", "checkpoint_steps": 1},
        "forward": {"tokens_per_batch": 2048},
        "rows_per_shard": 4,
        "answers": str(folder / "answers"),
    }
    return Profile.model_validate(body)


def build(name: str, folder: Path, rounds: int = 2) -> tuple[Recipe, Profile]:
    """Run a tiny recipe in `folder` to its end."""
    made, where = tiny(name, rounds), profile(folder.parent)
    if name == "dno":
        scripted = {"judged": {"engine": {"kind": "canned", "responses": GRADES}}}
        where = where.model_copy(update={"overrides": scripted})
    run.run(made, where, folder, context=Context(run=folder, profile=where))
    return made, where


def child(name: str, folder: Path, kill_at: int) -> int:
    """Run in a forked child that kills itself at its N-th durable call (0: never); returns its exit code, negative if killed."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    try:
        os.fsync, os.rename, os.replace = counted(os.fsync), counted(os.rename), counted(os.replace)
        build(name, folder)
        (folder.parent / "calls").write_text(str(calls))
        os._exit(0)
    finally:
        traceback.print_exc()  # reached only if something was raised: a child never goes on in its parent's code
        os._exit(1)


def main() -> None:
    """Kill a tiny recipe at three random durable calls, resume it, and compare digests. A program of its own, because it forks."""
    name, base = sys.argv[1], Path(sys.argv[2])
    import torch

    torch.set_num_threads(1)
    # Imports what the steps need here, and not in each child; nothing here starts a thread.
    build(name, base / "warm", rounds=0)
    assert child(name, base / "whole", 0) == 0
    whole = digests(base / "whole")
    total = int((base / "calls").read_text())
    points = sorted(random.Random(name).sample(range(1, total + 1), 3))
    for kill_at in points:
        broken = base / "broken"
        shutil.rmtree(base / "answers", ignore_errors=True)
        assert child(name, broken, kill_at) == -signal.SIGKILL
        visible = digests(broken)
        assert visible.items() <= whole.items() and len(visible) < len(whole), f"call {kill_at}"
        assert child(name, broken, 0) == 0
        assert digests(broken) == whole, f"call {kill_at}: other bytes"
        left = [path for path in broken.rglob(".*") if path.is_dir()]
        assert not left, f"call {kill_at}: drafts left behind: {left}"
        shutil.rmtree(broken)
    print(json.dumps({"calls": total, "points": points, "artifacts": len(whole)}))


if __name__ == "__main__":
    main()
