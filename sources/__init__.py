"""Sources are where prompts, demonstrations and rows that somebody already has come from. Each file beside this one is one source.

A source module is a `Source`. `read` goes lazily, in a fixed order, the same for every seed of a recipe:
a source that draws has a seed among its settings. What is
malformed is a Refusal that says where (file and line, or column). It may have

    rows(config) -> Iterator[tuple[str, dict]]     # the same rows whole, each with where it stands; what `take` reads
    FOR_RECORDS: frozenset[str]                    # settings that only `read` looks at
    origin(config) -> dict[str, object]            # which bytes were read, such as a digest or a commit; kept as a fact
    count(config) -> int | None                    # rows, as far as can be told before reading
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from models.messages import Message
from pipeline.plugin import Choice, Settings


@dataclass(frozen=True)
class Record:
    """One prompt, and what its source knows of it."""

    prompt: tuple[Message, ...]
    meta: dict[str, object] = field(default_factory=dict[str, object])
    """Must be JSON; `answer` is what checkers look for."""
    response: str | None = None
    """A demonstration, where the source has one."""


class Source(Protocol):
    """What a source module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    def read(self, config: Any) -> Iterator[Record]: ...


def of(choice: Choice) -> Source:
    """The module of a choice, by its contract."""
    return cast(Source, choice.module)
