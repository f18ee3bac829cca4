"""Checkpoints inside a draft: absent or whole, verified before they are trusted, the last two kept.

Each is a folder `checkpoint-00000040` (steps done) whose `sealed.json` lists every file with its digest. What the
files hold is the trainer's business. They may be pickles: they never leave the draft that this key wrote.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.errors import Refusal

SEAL = "sealed.json"
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    step: int
    """Optimizer steps that had been done."""
    maker: dict[str, Any]
    """What wrote it: it can be read by the same trainer over the same ranks alone."""
    metrics: list[dict[str, Any]]
    """One entry for each of those steps."""


def begin(work: Path, step: int) -> Path:
    """An empty folder to write the state after `step` steps into."""
    part = work / f".checkpoint-{step:08d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def seal(work: Path, step: int, maker: dict[str, Any], metrics: list[dict[str, Any]]) -> None:
    """Make the folder that `begin` gave durable and visible, and forget all but the last two."""
    part = work / f".checkpoint-{step:08d}.part"
    found = sorted(path for path in part.rglob("*") if path.is_file())
    for path in found:
        artifact.sync(path)
    files = {str(path.relative_to(part)): artifact.digest_of(path) for path in found}
    body = {"step": step, "maker": maker, "metrics": metrics, "files": files}
    (part / SEAL).write_text(json.dumps({**body, "digest": artifact.hash_of(body)}))
    artifact.sync(part / SEAL)
    for folder in (*(path for path in part.rglob("*") if path.is_dir()), part):
        artifact.sync(folder)
    target = work / f"checkpoint-{step:08d}"
    shutil.rmtree(target, ignore_errors=True)  # one that failed verification
    part.rename(target)
    artifact.sync(work)
    for old in sorted(work.glob("checkpoint-*"))[:-KEPT]:
        shutil.rmtree(old)


def newest(work: Path, maker: dict[str, Any]) -> Checkpoint | None:
    """The newest whole checkpoint, or None. Raises Refusal if it is another trainer's, or was written by other ranks."""
    for folder in sorted(work.glob("checkpoint-*"), reverse=True):
        found = _verified(folder)
        if found is None:
            continue
        if found.maker != maker:
            raise Refusal(
                f"{folder}: this training was begun with {_said(found.maker)} and the profile now says {_said(maker)}; "
                f"go on with what it was begun with, or delete {work} to begin it again"
            )
        return found
    return None


def _said(maker: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in maker.items())


def _verified(folder: Path) -> Checkpoint | None:
    try:
        body = json.loads((folder / SEAL).read_text())
    except (FileNotFoundError, ValueError):
        return None
    if body.pop("digest", None) != artifact.hash_of(body):
        return None
    for name, digest in body["files"].items():
        path = folder / name
        if not path.is_file() or artifact.digest_of(path) != digest:
            return None
    return Checkpoint(folder, body["step"], body["maker"], body["metrics"])
