"""Reads prompts with answers from a source into a candidates table of one response each, to train on with `sft`.

No engine made these texts, so their token ids are null and the trainer tokenises them. `read` = `rows` +
`duplicates` + `too_long` + `empty`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.plugin import Choice, Picks, Settings
from pipeline.tools import Tools
from stages import _adopt_rows

VERSION = 1
MAKES = "candidates"
SEEDED = False


class Config(Settings):
    source: Annotated[Choice, Picks("sources")]
    """Where they come from; it must give responses (`response: <field>` for files and hub datasets)."""
    take: int | None = Field(None, ge=1)
    """At most this many, the first ones of the source; rows with an empty response count."""
    max_prompt_characters: int | None = Field(None, ge=1)
    """Rows with longer prompts, all messages together, are left out and counted; if not given, none is."""
    empty: Literal["drop", "keep"] = "drop"
    """Rows with an empty response: `keep` them where every prompt must have one, as beside candidates under one judge."""


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """Rows, as far as the settings alone tell."""
    return {"rows": getattr(config.source.config, "count", config.take), "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    counts = _adopt_rows.Counts()
    found = _rows(config, tools, counts)
    written = rows.write(tools.out, "candidates", (rows.from_pylist("candidates", batch) for batch in _adopt_rows.batches(found)))
    if not written:
        raise Refusal(f"{tools.address}: no demonstration is left of the {counts.read} that were read ({counts.facts}); check the source")
    return _adopt_rows.report(tools, config.source, counts, written)


def _rows(config: Config, tools: Tools, counts: _adopt_rows.Counts) -> Iterator[dict[str, Any]]:
    for identity, record in _adopt_rows.distinct(config.source, tools, config.take, config.max_prompt_characters, counts):
        if record.response is None:
            raise Refusal(f"{tools.address}: source '{config.source.kind}' gives no responses; name their field (`response: ...`)")
        if config.empty == "drop" and not record.response.strip():
            counts.skip("empty")
            continue
        response = {"text": record.response, "token_ids": None, "logprob": None, "finish_reason": "stop", "source": "demonstration"}
        yield {"id": identity, "prompt": list(record.prompt), "meta": record.meta, "responses": [response]}
