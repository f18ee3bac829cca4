"""An artifact is a folder that is either absent or complete.

It is written as a draft beside its final place, sealed with a manifest that lists every file with its digest,
and renamed; readers never see half of it. This module knows nothing of stages, rounds, models or GPUs.

The order that survives a power loss: files, then folders, then the manifest are forced to disk; then the
rename; then the parent folder.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import Refusal

MANIFEST = "manifest.json"
Facts = dict[str, Any]


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    bytes: int
    blake3: str


class Manifest(BaseModel):
    """What an artifact is: what was asked, what was read, what came out, and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    format: Literal[1] = 1
    key: str
    """What was asked for: a hash of `identity`."""
    identity: dict[str, Any]
    """The value that `key` hashes, kept so that a mismatch can be explained field by field."""
    inputs: dict[str, list[str]]
    """Slot -> digests that were read. If an input's digest differs now, this artifact is stale."""
    digest: str
    """What came out: a hash over `files`."""
    files: tuple[FileEntry, ...]
    facts: Facts
    """Counts and rates that the stage reports. Never part of the key or the digest."""
    provenance: dict[str, Any]
    """What really ran: versions, machine, seconds."""
    dropped: bool = False
    """The files were removed on purpose when nothing was left to read them; all else here is as it was."""


@dataclass(frozen=True)
class Artifact:
    path: Path
    manifest: Manifest
    linked_from: str | None = None
    """Name of the run that it was just linked from; None if it was built, or was there."""


@dataclass(frozen=True)
class Draft:
    """An artifact in the making. Both folders survive a crash, so that the next attempt goes on from them."""

    out: Path
    """Becomes the artifact."""
    work: Path
    """Shards and training checkpoints; gone once the artifact is published."""


class CorruptArtifact(Refusal):
    """The bytes on disk are not the bytes that the manifest promises."""


def hash_of(value: Any) -> str:
    """BLAKE3 of plain data, by its canonical JSON."""
    return blake3(json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """BLAKE3 of a file's bytes."""
    return blake3().update_mmap(path).hexdigest() if path.stat().st_size else blake3().hexdigest()


def read(path: Path, *, verify: bool = False) -> Artifact | None:
    """The artifact at `path`, or None if there is none. Sizes are always checked; `verify` re-hashes every file."""
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        if path.exists():
            raise CorruptArtifact(f"{path}: has no {MANIFEST}, so it is not an artifact; move it away and run again") from None
        return None
    except ValidationError:
        raise CorruptArtifact(f"{path / MANIFEST}: is not a whole manifest; {_way_out(path)}") from None
    for entry in () if manifest.dropped else manifest.files:
        file = path / entry.path
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            raise CorruptArtifact(f"{file}: has {size} bytes, its manifest says {entry.bytes}; {_way_out(path)}")
        if verify and digest_of(file) != entry.blake3:
            raise CorruptArtifact(f"{file}: its digest differs from its manifest's, so the bytes have changed; {_way_out(path)}")
    if verify and _digest(manifest.files) != manifest.digest:
        raise CorruptArtifact(f"{path / MANIFEST}: its files do not add up to its digest; {_way_out(path)}")
    return Artifact(path, manifest)


def _way_out(path: Path) -> str:
    return f"`rematch retire {path.parent.parent} {path.parent.name}/{path.name}` moves it to the attic, then run again"


def draft_folder(path: Path, key: str) -> Path:
    """Where the artifact at `path` is drafted: named by the key, so that only the same request goes on from it."""
    return path.with_name(f".{path.name}.{key[:16]}")


@contextmanager
def draft(path: Path, key: str) -> Generator[Draft]:
    """The draft of the artifact at `path`, held by this process alone. Raises Refusal if another process has it."""
    if path.exists():
        raise Refusal(f"{path}: exists already; an artifact is never overwritten, `rematch retire` it first")
    folder = draft_folder(path, key)
    made = Draft(folder / "out", folder / "work")
    for each in (made.out, made.work):
        each.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(f"{path}: is being built by another process; wait for it, or end it") from None
        yield made


def publish(
    made: Draft, path: Path, *, key: str, identity: dict[str, Any], inputs: dict[str, list[str]], facts: Facts, provenance: dict[str, Any]
) -> Artifact:
    """Seal a draft and move it to `path`, durably: when this returns, a power loss cannot undo it."""
    found = sorted(p for p in made.out.rglob("*") if p.is_file() and p != made.out / MANIFEST)
    for file in found:
        sync(file)
    entries = tuple(FileEntry(path=str(p.relative_to(made.out)), bytes=p.stat().st_size, blake3=digest_of(p)) for p in found)
    manifest = Manifest(
        key=key, identity=identity, inputs=inputs, digest=_digest(entries), files=entries, facts=facts, provenance=provenance
    )
    (made.out / MANIFEST).write_text(manifest.model_dump_json(indent=2))
    sync(made.out / MANIFEST)
    _show(made.out, path)
    shutil.rmtree(made.out.parent)
    return Artifact(path, manifest)


def link(have: Artifact, made: Draft, path: Path) -> Artifact | None:
    """Publish at `path` what another run has, by hard links: its files are shared from now on, and none is written to again.

    None if it went away, or was dropped, while it was being linked. Raises OSError where no links can be made.
    """
    part = made.out.with_name("linking")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        for name in (*(entry.path for entry in have.manifest.files if not have.manifest.dropped), MANIFEST):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(have.path / name, part / name)
    except FileNotFoundError:
        return None
    was, found = have.manifest, read(part)
    if found is None or (found.manifest.key, found.manifest.digest, found.manifest.dropped) != (was.key, was.digest, was.dropped):
        return None
    _show(part, path)
    shutil.rmtree(made.out.parent)
    return Artifact(path, have.manifest)


def _show(folder: Path, path: Path) -> None:
    """Move a whole artifact, whose files are on disk, to where readers find it."""
    for each in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        sync(each)
    os.rename(folder, path)
    sync(path.parent)


def drop(have: Artifact) -> None:
    """Remove the files of an artifact that nothing will read again. Its manifest says so first, and stays; safe to repeat."""
    if not have.manifest.dropped:
        write_file(have.path / MANIFEST, have.manifest.model_copy(update={"dropped": True}).model_dump_json(indent=2).encode())
    for each in have.path.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != MANIFEST:
            each.unlink()
    sync(have.path)


def sweep(path: Path, key: str) -> None:
    """Remove what is left of the draft of a published artifact, if its process died before it could."""
    shutil.rmtree(draft_folder(path, key), ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Put a small file at `path` durably and at once: readers see the old bytes or the new ones."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Force one file or folder to disk. If this fails, the bytes are lost: write them again from scratch."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(entries: tuple[FileEntry, ...]) -> str:
    return hash_of([[entry.path, entry.blake3] for entry in entries])
