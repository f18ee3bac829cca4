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
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import Refusal

MANIFEST = "manifest.json"
FORMAT, UNSEALED = 2, 1
"""Of manifests, and the one that had no seal. Another one is refused, and nothing is migrated."""
Facts = dict[str, Any]


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    bytes: int
    blake3: str


class Manifest(BaseModel):
    """What an artifact is: what was asked, what was read, what came out, and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    format: Literal[2] = 2
    makes: str
    """What it is: the name of the table that it holds, `model` or `report`."""
    key: str
    """What was asked for: a hash of `identity`."""
    identity: dict[str, Any]
    """The value that `key` hashes, kept so that a mismatch can be explained field by field."""
    inputs: dict[str, list[str]]
    """Slot -> digests that were read. If an input's digest differs now, this artifact is stale."""
    leans_on: dict[str, str] = {}
    """Address -> digest of other artifacts of the run without whose files this one cannot be read, nearest first; theirs are in it too."""
    digest: str
    """What came out: a hash over `files`."""
    files: tuple[FileEntry, ...]
    facts: Facts
    """Counts and rates that the stage reports. Never part of the key or the digest."""
    provenance: dict[str, Any]
    """What really ran: versions, machine, seconds."""
    dropped: bool = False
    """The files were removed on purpose when nothing was left to read them; all else here is as it was."""
    seal: str = ""
    """A hash over every byte that stands before it in the file. The last field."""


@dataclass(frozen=True)
class Artifact:
    path: Path
    manifest: Manifest
    linked_from: str | None = None
    """Name of the run that it was just linked from; None if it was built, or was there."""

    @property
    def address(self) -> str:
        """Where it is in its run."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def bases(self) -> tuple[Path, ...]:
        """The folders of the artifacts that it leans on, nearest first."""
        return tuple(self.path.parent.parent / address for address in self.manifest.leans_on)


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
    """The artifact at `path`, or None if there is none; CorruptArtifact if its manifest, its files or a base are not what they were.

    The manifest's seal, the files' sizes and the digests of what it leans on are always checked. `verify` hashes every
    file and the identity again; the bases' bytes are theirs to verify.
    """
    made = _whole(path, verify=verify)
    if made is not None and not made.manifest.dropped:
        _check_bases(made)
    return made


def _whole(path: Path, *, verify: bool = False) -> Artifact | None:
    """As `read`, without a look at what it leans on."""
    manifest = _manifest(path)
    if manifest is None:
        return None
    for entry in () if manifest.dropped else manifest.files:
        file = path / entry.path
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            raise CorruptArtifact(f"{file}: has {size} bytes, its manifest says {entry.bytes}; {_way_out(path)}")
        if verify and digest_of(file) != entry.blake3:
            raise CorruptArtifact(f"{file}: its digest differs from its manifest's, so the bytes have changed; {_way_out(path)}")
    if verify and _digest(manifest.files) != manifest.digest:
        raise CorruptArtifact(f"{path / MANIFEST}: its files do not add up to its digest; {_way_out(path)}")
    if verify and hash_of(manifest.identity) != manifest.key:
        raise CorruptArtifact(f"{path / MANIFEST}: its identity does not add up to its key; {_way_out(path)}")
    return Artifact(path, manifest)


def _manifest(path: Path) -> Manifest | None:
    """The manifest of the artifact at `path`, its seal checked. Raises Refusal if it is of another format."""
    file = path / MANIFEST
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if path.exists():
            raise CorruptArtifact(f"{path}: has no {MANIFEST}, so it is not an artifact; move it away and run again") from None
        return None
    if not data.endswith(_end(data[: -len(_end(b""))])):
        if _format(data) == UNSEALED:
            raise _other_format(file, data)
        raise CorruptArtifact(f"{file}: is not as it was written, its seal does not fit; {_way_out(path)}")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError:
        raise _other_format(file, data) from None


def _other_format(file: Path, data: bytes) -> Refusal:
    return Refusal(
        f"{file}: is of manifest format {_format(data)}, and this rematch reads format {FORMAT} alone; go on with the rematch that wrote "
        "it, or run again under another name (--run)"
    )


def _format(data: bytes) -> int | None:
    """What a manifest says of its format; None if it says nothing that can be read."""
    try:
        found: Any = json.loads(data)
    except ValueError:
        return None
    return cast(dict[str, Any], found).get("format") if isinstance(found, dict) else None


def _end(body: bytes) -> bytes:
    """The seal of a manifest's bytes, as it stands behind them."""
    return f'"{blake3(body).hexdigest()}"\n}}'.encode()


def _sealed(manifest: Manifest) -> Manifest:
    body = manifest.model_copy(update={"seal": ""}).model_dump_json(indent=2).removesuffix('""\n}')
    return manifest.model_copy(update={"seal": blake3(body.encode()).hexdigest()})


def _check_bases(made: Artifact) -> None:
    for base, (address, digest) in zip(made.bases, made.manifest.leans_on.items(), strict=True):
        try:
            have = read(base)
        except CorruptArtifact as error:
            raise CorruptArtifact(f"{made.path}: leans on {address}, and {error}") from None
        if have is None:
            why = "is missing"
        elif have.manifest.dropped:
            why = "was dropped"
        elif have.manifest.digest != digest:
            why = f"has other bytes than it had (digest {have.manifest.digest[:12]}, not {digest[:12]})"
        else:
            continue
        raise CorruptArtifact(f"{made.path}: leans on {address}, which {why}; put that back, or {_way_out(made.path)}")


def leaners(run: Path, addresses: Collection[str]) -> list[str]:
    """The addresses of the artifacts of a run that lean on one of `addresses` and have their files.

    What cannot be read leans on nothing: `status` says what it is.
    """
    found: list[str] = []
    for file in sorted(run.glob(f"*/[!.]*/{MANIFEST}")) if addresses else ():
        try:
            manifest = _manifest(file.parent)
        except Refusal:
            continue
        if manifest is not None and not manifest.dropped and not manifest.leans_on.keys().isdisjoint(addresses):
            found.append(Artifact(file.parent, manifest).address)
    return found


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
    made: Draft,
    path: Path,
    *,
    makes: str,
    key: str,
    identity: dict[str, Any],
    inputs: dict[str, list[str]],
    facts: Facts,
    provenance: dict[str, Any],
    leans_on: dict[str, str] | None = None,
) -> Artifact:
    """Seal a draft and move it to `path`, durably: when this returns, a power loss cannot undo it."""
    found = sorted(p for p in made.out.rglob("*") if p.is_file() and p != made.out / MANIFEST)
    for file in found:
        sync(file)
    entries = tuple(FileEntry(path=str(p.relative_to(made.out)), bytes=p.stat().st_size, blake3=digest_of(p)) for p in found)
    manifest = _sealed(
        Manifest(
            makes=makes,
            key=key,
            identity=identity,
            inputs=inputs,
            leans_on=leans_on or {},
            digest=_digest(entries),
            files=entries,
            facts=facts,
            provenance=provenance,
        )
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
    was, found = have.manifest, _whole(part)  # its bases are not beside it yet
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
        manifest = _sealed(have.manifest.model_copy(update={"dropped": True}))
        write_file(have.path / MANIFEST, manifest.model_dump_json(indent=2).encode())
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
