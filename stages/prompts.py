"""Reads prompts from a source into a table: distinct, with ids that are hashes of their messages.

Nothing is dropped in silence: `read` = `rows` + `duplicates` + `too_long`, all three are facts.
"""

from typing import Annotated

from pydantic import Field

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.plugin import Choice, Picks, Settings
from pipeline.tools import Tools
from stages import _adopt_rows

VERSION = 1
MAKES = "prompts"
SEEDED = False


class Config(Settings):
    source: Annotated[Choice, Picks("sources")]
    """Where they come from."""
    take: int | None = Field(None, ge=1)
    """At most this many, the first ones of the source."""
    max_prompt_characters: int | None = Field(None, ge=1)
    """Longer prompts, all messages together, are left out and counted; if not given, none is."""


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """Rows, as far as the settings alone tell."""
    return {"rows": getattr(config.source.config, "count", config.take), "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    counts = _adopt_rows.Counts()
    made = (
        {"id": identity, "prompt": list(record.prompt), "meta": record.meta}
        for identity, record in _adopt_rows.distinct(config.source, tools, config.take, config.max_prompt_characters, counts)
    )
    written = rows.write(tools.out, "prompts", (rows.from_pylist("prompts", batch) for batch in _adopt_rows.batches(made)))
    if not written:
        why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.facts.items())
        raise Refusal(f"{tools.address}: no prompt is left of the {counts.read} that were read ({why}); loosen the limits")
    return _adopt_rows.report(tools, config.source, counts, written)
