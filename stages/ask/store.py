"""A cache of answers that were paid for: one append-only file a teacher, which outlives runs and crashes.

Each line is JSON with a checksum of its own. Lines are appended under a file lock and forced to disk; what a crash
left of a last line is cut off when the file is opened. What is being asked is claimed by a lock on one byte of a second
file, which the system gives back when its process dies; so of two processes one asks, and the other waits for the answer.
"""

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines import Completion, Response
from pipeline.artifact import hash_of, sync
from pipeline.errors import Refusal

SYNC_S = 0.25
"""Longest time that an answer waits for the disk; a power loss, unlike a killed process, can take back that much."""


class Answers:
    """The answers of one teacher, open for reading and appending."""

    def __init__(self, folder: Path, teacher: str, name: str) -> None:
        """`teacher` identifies it, `name` makes the file easy to find."""
        self.path = place(folder, teacher, name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self._claims = os.open(self.path.with_suffix(".asking"), os.O_RDWR | os.O_CREAT, 0o600)
        sync(self.path.parent)
        self._where: dict[str, tuple[int, int]] = {}
        self._read_to = self._lines = 0
        self._synced = time.monotonic()
        self.torn = 0
        """Lines cut off at the end: what a crash left."""
        self.refresh()

    def close(self) -> None:
        os.fsync(self._file)
        os.close(self._file)
        os.close(self._claims)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def get(self, key: str) -> dict[str, Any]:
        """The answer to `key`, as it was appended. Raises Refusal if its bytes have changed."""
        start, length = self._where[key]
        return self._parse(os.pread(self._file, length, start), f"{self.path} at byte {start}")["answer"]

    def refresh(self) -> None:
        """Take note of what other processes have appended."""
        with self._locked():
            self._read_on()

    def append(self, key: str, answer: dict[str, Any]) -> None:
        """Add one answer. A killed process does not lose it from here on."""
        body = {"key": key, "answer": answer}
        line = json.dumps({"check": hash_of(body)[:16], **body}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._locked():
            self._read_on()
            written = 0
            try:
                while written < len(line):
                    written += os.pwrite(self._file, line[written:], self._read_to + written)
            finally:
                if written < len(line):
                    os.ftruncate(self._file, self._read_to)
            self._note(key, line)
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Force what was appended to disk."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def claim(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that no other process is asking; this one is from here on."""
        return [key for key in keys if self._claimed(key, wait=False)]

    def wait(self, key: str) -> None:
        """Claim `key` when the process that is asking it has answered or died."""
        self._claimed(key, wait=True)

    def release(self, keys: Iterable[str]) -> None:
        for key in keys:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _byte(key))

    def _claimed(self, key: str, wait: bool) -> bool:
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, _byte(key))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    @contextmanager
    def _locked(self) -> Generator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _read_on(self) -> None:
        """Read to the end, under the lock: a last line that is not whole was left by a crash, and is cut off."""
        size = os.fstat(self._file).st_size
        if size == self._read_to:
            return
        if size < self._read_to:
            raise Refusal(f"{self.path}: has become shorter while it was read; see who else writes it, and run again")
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                last = self._read_to + len(line) == size
                if not line.endswith(b"\n") or (last and not self._whole(line)):
                    os.ftruncate(self._file, self._read_to)
                    os.fsync(self._file)
                    self.torn += 1
                    return
                self._note(self._parse(line, f"{self.path}:{self._lines + 1}")["key"], line)

    def _note(self, key: str, line: bytes) -> None:
        self._where.setdefault(key, (self._read_to, len(line)))
        self._read_to += len(line)
        self._lines += 1

    def _whole(self, line: bytes) -> bool:
        try:
            self._parse(line, "")
        except Refusal:
            return False
        return True

    def _parse(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            body = json.loads(line)
            if body.pop("check") == hash_of(body)[:16]:
                return body
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise Refusal(f"{where}: is damaged, its checksum does not fit; put a good copy back, or remove the line to have it asked again")


def place(folder: Path, teacher: str, name: str) -> Path:
    """The file of one teacher."""
    return folder.expanduser() / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:80]}-{teacher[:16]}.jsonl"


def _byte(key: str) -> int:
    """Where in the second file a key is claimed; two keys in 2^62 that share a byte only wait for each other."""
    return int(key[:16], 16) >> 2


def pack(completion: Completion, tokenizer: str | None) -> dict[str, Any]:
    """What is kept of an answer."""
    counted = [completion.prompt_tokens, completion.response_tokens]
    kept = {"response": asdict(completion.responses[0]), "counted": counted}
    return kept if tokenizer is None else {**kept, "tokenizer": tokenizer, "prompt_token_ids": list(completion.prompt_token_ids)}


def unpack(answer: dict[str, Any]) -> tuple[Completion, str | None]:
    """The completion as it was packed, and the fingerprint of its tokenizer."""
    said = answer["response"]
    response = Response(said["text"], tuple(said["token_ids"]), tuple(said["logprobs"]), said["finish_reason"])
    ids = tuple(answer.get("prompt_token_ids", ()))
    return Completion(ids, (response,), counted=tuple(answer["counted"])), answer.get("tokenizer")
