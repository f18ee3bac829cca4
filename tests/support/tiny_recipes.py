"""Shipped recipes at the size of a test: the same graphs and settings, over models of a few thousand weights.

Models are made by `init`, prompts are letters to sort, generation is by transformers and training by torch, all on the
CPU. A judge that is a language model is the tiny model itself, whose expected grade is read from its probabilities;
DNO's joint grades and Meta-Rewarding's judgements, which no such model can write, come from a script. PairRM
and the General Preference Model are random ones of a few thousand weights.
"""

import gc
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

from pipeline import plugin, recipe, run
from pipeline.build import Context
from pipeline.profile import Profile
from pipeline.recipe import Recipe
from tests.support.core import digests
from tests.support.gpm_shaped import gpm_shaped
from tests.support.pairrm_shaped import pairrm_shaped

NEW = ("dno", "self-rewarding", "meta-rewarding", "temporal-self-rewarding")
NASH = (
    "accelerated-sppo", "egpo", "gpo", "inpo", "kto", "mnpo", "nash-md", "orpo", "osp", "power-dl", "rdpo", "selm", "simpo",
    "spin", "spo", "sppo-hard", "sppo-single", "vpo", "xpo",
)  # fmt: skip
JUDGES: dict[str, Callable[[Path], Path]] = {"PairRM": pairrm_shaped, "GPM": gpm_shaped}
ROUNDS = {"mnpo": 4}
"""Of a tiny run, where they are not 2."""
PROMPTS = 6
"""In each round."""
MODEL = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.3,
}  # fmt: skip
GRADES = tuple(
    "\n".join(f"id{at}_justification: it will do\nid{at}_score: {score}" for at, score in enumerate(scores, start=1))
    for scores in ((6, 5, 3, 4, 1, 2), (1, 6, 2, 5, 5, 3), (5, 1, 6, 1, 2, 4))
)

JUDGEMENTS = ("It is on the subject.\nScore: 1", "It could be longer.\nScore: 2", "I cannot say.", "Nothing is missing.\nScore: 5")
SCRIPTS = {"dno": GRADES, "meta-rewarding": JUDGEMENTS}


def tiny(name: str, rounds: int, folder: Path) -> Recipe:
    """A shipped recipe, shrunk; models that it adopts and nobody can `init` are made in `folder`."""
    body = recipe.whole_of(recipe.filled(recipe.load(recipe.find(name, "recipes"))))
    parts = body["round"]["batch"]["parts"]
    for node in [*body["start"].values(), *body["round"].values()]:
        _shrink(node, PROMPTS * parts, folder)
    return recipe.make({**body, "rounds": rounds}, name)


def _shrink(node: dict[str, Any], count: int, folder: Path) -> None:
    stage = node["stage"]
    judge = next((name for name in JUDGES if name in node.get("model", "")), None) if stage == "adopt" else None
    if judge is not None:
        path = folder / judge
        node["model"] = str(path if path.exists() else JUDGES[judge](path))
    elif stage == "adopt":
        node.clear()
        node.update(stage="init", model=MODEL)
    elif stage in ("prompts", "demonstrations"):
        split, count = ("held_out", 3) if node.get("take") == 512 else ("train", count)
        node.clear()
        node.update(stage=stage, source={"kind": "letters", "split": split, "count": count})
    elif "max_new_tokens" in node:
        node["max_new_tokens"] = 6
    elif stage == "train":
        node.update(learning_rate=1e-3, batch_size=4, num_train_epochs=1, max_length=2048)
    elif "max_length" in node:
        node["max_length"] = 2048
    elif "judge" in node:
        node["judge"] = _judge(node["judge"])
        if stage != "evaluate":
            node["position_rate"] = None  # what these judges say is made up
        if stage == "judge":
            node["limits"] = {}
    elif stage == "pair" and node["rule"]["kind"] == "margin":
        node["rule"]["teacher"] = "teacher"


def _judge(judge: dict[str, Any]) -> dict[str, Any]:
    kind = judge["kind"]
    if kind == "anchor":
        return {**judge, "judge": _judge(judge["judge"])}
    if kind == "pairwise":
        kept = {name: judge[name] for name in ("model", "against") if name in judge}
        return {"kind": "pairwise", "question": "Which judgement is right?", **kept}
    if kind == "rubric":
        short = {"kind": "rubric", "model": judge["model"], "rubric": "How good? {low} to {high}.", "scores": [0, 5]}
        written = {name: judge[name] for name in ("samples", "keep_questions") if "keep_questions" in judge}
        return short | (written or {"read": "probabilities"})
    return judge


def profile(folder: Path) -> Profile:
    body = {
        "name": "tiny",
        "engine": {"kind": "transformers", "threads": 1},
        "trainer": {"kind": "torch", "checkpoint_steps": 1},
        "forward": {"tokens_per_batch": 2048},
        "rows_per_shard": 4,
        "reuse": "none",
        "answers": str(folder / "answers"),
    }
    return Profile.model_validate(body)


def build(name: str, folder: Path, rounds: int | None = None) -> tuple[Recipe, Profile]:
    """Run a tiny recipe in `folder` to its end."""
    made, where = tiny(name, ROUNDS.get(name, 2) if rounds is None else rounds, folder.parent), profile(folder.parent)
    if name in SCRIPTS:
        scripted = {"judged": {"engine": {"kind": "canned", "responses": SCRIPTS[name]}}}
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


def killed(name: str, base: Path, kills: int) -> dict[str, Any]:
    """Run a tiny recipe in `base`, kill it again at some random durable calls, resume it, and compare digests."""
    assert child(name, base / "whole", 0) == 0, name
    whole = digests(base / "whole")
    total = int((base / "calls").read_text())
    points = sorted(random.Random(name).sample(range(1, total + 1), kills))
    for kill_at in points:
        broken = base / "broken"
        shutil.rmtree(base / "answers", ignore_errors=True)
        assert child(name, broken, kill_at) == -signal.SIGKILL, name
        visible = digests(broken)
        assert visible.items() <= whole.items() and len(visible) < len(whole), f"{name}, call {kill_at}"
        assert child(name, broken, 0) == 0, f"{name}, call {kill_at}: does not resume"
        assert digests(broken) == whole, f"{name}, call {kill_at}: other bytes"
        left = [path for path in broken.rglob(".*") if path.is_dir()]
        assert not left, f"{name}, call {kill_at}: drafts left behind: {left}"
        shutil.rmtree(broken)
    return {"name": name, "calls": total, "points": points, "artifacts": len(whole)}


def main() -> None:
    """`BASE KILLS NAME...`: `killed` for each name, below BASE. A program of its own, because it forks."""
    base, kills, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    import torch

    torch.set_num_threads(1)
    # Imports what the steps need here, and not in each child; nothing here starts a thread.
    for folder in plugin.FOLDERS:
        for kind in plugin.names(folder):
            plugin.load(folder, kind)
    build(names[0], base / "warm" / names[0], rounds=0)
    gc.freeze()  # a child that collects need not look at what was imported
    for name in names:
        (base / name).mkdir()
        print(json.dumps(killed(name, base / name, kills)), flush=True)


if __name__ == "__main__":
    main()
