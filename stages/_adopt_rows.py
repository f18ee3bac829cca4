"""From a source's records to distinct rows: ids, duplicates and over-long prompts, all of them counted.

The id of a prompt is a hash of its messages, so that it is the same in every run, table and language.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sources
from pipeline.artifact import Facts, hash_of
from pipeline.plugin import Choice
from pipeline.tools import Tools
from sources import Message, Record

ROWS = 1024
"""Rows handed on at a time."""


def prompt_id(messages: tuple[Message, ...]) -> str:
    """The id of a prompt: 64 bits of BLAKE3 over its messages."""
    turns = [[message["role"], message["content"], message.get("tool_calls")] for message in messages]
    return hash_of([turn if turn[2] else turn[:2] for turn in turns])[:16]


@dataclass
class Counts:
    """What became of the records of a source."""

    read: int = 0
    facts: Facts = field(default_factory=lambda: {"duplicates": 0, "too_long": 0})

    def skip(self, reason: str) -> None:
        self.facts[reason] = self.facts.get(reason, 0) + 1


def distinct(
    source: Choice, tools: Tools, take: int | None, max_prompt_characters: int | None, counts: Counts
) -> Iterator[tuple[str, Record]]:
    """The records with their ids: the first of each prompt, none over-long, at most `take`. Fills `counts`."""
    seen: set[str] = set()
    for record in sources.of(source).read(source.config):
        if take is not None and len(seen) >= take:
            return
        counts.read += 1
        identity = prompt_id(record.prompt)
        if max_prompt_characters is not None and sum(len(m["content"]) for m in record.prompt) > max_prompt_characters:
            counts.skip("too_long")
        elif identity in seen:
            counts.skip("duplicates")
        else:
            seen.add(identity)
            yield identity, record


def batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows by the thousand."""
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def report(tools: Tools, source: Choice, counts: Counts, rows: int) -> Facts:
    """The facts of a table made from a source; what was left out is also said aloud."""
    facts: Facts = {"rows": rows, "read": counts.read, **counts.facts}
    if hasattr(source.module, "origin"):
        facts["origin"] = source.module.origin(source.config)
    left_out = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in counts.facts.items() if n)
    if left_out:
        tools.log.warning("%s: left out of %d rows read: %s", tools.address, counts.read, left_out)
    return facts
