"""Takes in pairs, judged groups or candidates that somebody already has: what `rematch export` wrote, or a dataset's rows.

The shape of the rows is told by name, or by the columns of the first one (`shape: auto`); the facts say which it was. Ids,
token ids, win tables and scores that are there are kept, what is not there is null, and no score is invented. Nothing is
dropped in silence: `read` = `rows` + `merged` + all that `dropped` counts, and columns that nobody asked for are `ignored`.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.plugin import Choice, Picks, Settings, unknown
from pipeline.tools import Tools
from stages import _adopt_rows
from stages.take import groups, own, preference
from stages.take.counts import Counts
from stages.take.shapes import Name, Shape, fits, names_of, shape_of

VERSION = 1
MAKES = "pairs"


class Config(Settings):
    table: Literal["pairs", "judged", "candidates"]
    """What the rows become: pairs, groups with scores, or groups without."""
    source: Annotated[Choice, Picks("sources")]
    """Where they come from: `jsonl`, `parquet` or `hub`; a folder that a run or `rematch export` left is `parquet`."""
    shape: Name = "auto"
    """How the rows are laid out; `auto`: the columns of the first row say so, or it is refused."""
    columns: dict[str, str] = {}
    """What the source calls a column of the shape, where it has another name: `{prompt: question, chosen: good}`."""
    score: str | dict[str, float] | None = None
    """Of `ultrafeedback` and `helpsteer`: which rating is the score, or the weights of a sum of several, such as
    `{helpfulness: 0.8, verbosity: -0.2}`; if not given, `overall_score` and `helpfulness`."""
    keep: tuple[str, ...] = ()
    """Further columns to keep in the `meta` of a group; `answer` is what checkers look for. Pairs have no `meta`."""
    take: int | None = Field(None, ge=1)
    """At most this many rows of the source, the first ones."""
    malformed: Literal["refuse", "drop"] = "refuse"
    """A row that cannot be taken (an empty text, a group of one, a score that is no number): the step fails, or it is left out
    and counted."""

    @model_validator(mode="after")
    def _can_be_taken(self) -> "Config":
        module = self.source.module
        if not hasattr(module, "rows"):
            raise ValueError(f"source: '{self.source.kind}' gives prompts and no rows of its own; use hub, jsonl or parquet")
        unread = sorted(self.source.config.model_fields_set & getattr(module, "FOR_RECORDS", frozenset()))
        if unread:
            raise ValueError(
                f"source: {', '.join(unread)} is read by prompts and demonstrations alone; name columns with `columns` and `keep`"
            )
        if self.shape != "auto" and (problem := fits(self.shape, self.table, self.score, self.keep)):
            raise ValueError(problem)
        return self


def makes(config: Config) -> str:
    """The table that is asked for."""
    return config.table


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """At most as many rows as the source has, as far as it can be told before reading."""
    module = config.source.module
    known = module.count(config.source.config) if hasattr(module, "count") else None
    limits = [each for each in (known, config.take) if each is not None]
    return {"rows": min(limits, default=None), "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    where, first = next(_read(config))
    shape = shape_of(config.shape, first, where)
    if problem := fits(shape.name, config.table, config.score, config.keep):
        raise Refusal(f"{where}: {problem}")
    _named(config, shape, list(first), where)
    counts = Counts(config.malformed == "drop")
    written = rows.write(tools.out, config.table, _tables(config.table, _made(config, shape, counts), counts))
    if not written:
        raise Refusal(
            f"{tools.address}: no row is left of the {counts.read} that were read ({counts.told()}); look at the source, and at `shape`"
        )
    facts: Facts = {"rows": written, "read": counts.read, "shape": shape.name, **counts.facts()}
    if ignored := _ignored(config, shape, list(first)):
        facts["ignored"] = ignored
    if hasattr(config.source.module, "origin"):
        facts["origin"] = config.source.module.origin(config.source.config)
    if counts.dropped:
        tools.log.warning("%s: left out of %d rows read: %s", tools.address, counts.read, counts.told())
    return facts


def _read(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows with the shape's names for their columns."""
    for where, row in islice(config.source.module.rows(config.source.config), config.take):
        for name, theirs in config.columns.items():
            if theirs not in row:
                raise Refusal(f"{where}: columns: {unknown('column', theirs, list(row))}; name the columns as the source has them")
            row = {**row, name: row[theirs]}
        yield where, row


def _named(config: Config, shape: Shape, columns: list[str], where: str) -> None:
    """Raises Refusal if a setting names a column that the shape or the source does not have."""
    known = names_of(shape, config.table)
    for name in config.columns:
        if name not in known:
            raise Refusal(f"columns: {unknown('column', name, known)}; shape '{shape.name}' reads those of its own alone")
    for name in config.keep:
        if name not in columns:
            raise Refusal(f"{where}: keep: {unknown('column', name, columns)}; name the columns as the source has them")


def _ignored(config: Config, shape: Shape, columns: list[str]) -> list[str]:
    used = {*names_of(shape, config.table), *config.columns.values(), *config.keep, *groups.weights(shape.name, config.score)}
    return [name for name in columns if name not in used]


def _made(config: Config, shape: Shape, counts: Counts) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the table, each with where it stood."""
    if shape.name == "rematch":
        return own.made(_read(config), config.table, frozenset(config.columns.values()) - config.columns.keys(), counts)
    if shape.gives == "pairs":
        return preference.made(_read(config), shape.name, counts)
    asked = groups.Asked(shape.name, config.score, config.keep, least=2 if config.table == "judged" else 1)
    return groups.made(lambda: _read(config), asked, counts)


def _tables(table: str, made: Iterator[tuple[str, dict[str, Any]]], counts: Counts) -> Iterator[pa.Table]:
    """The rows by the thousand, as Arrow tables; the places are kept for a value of another type than the table's."""
    for batch in _adopt_rows.batches({"where": where, "row": row} for where, row in made):
        try:
            yield rows.from_pylist(table, [each["row"] for each in batch])
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError):
            yield rows.from_pylist(table, [each["row"] for each in batch if _whole(table, each, counts)])


def _whole(table: str, each: dict[str, Any], counts: Counts) -> bool:
    try:
        rows.from_pylist(table, [each["row"]])
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
        return counts.malformed(Refusal(f"{each['where']}: a value is not of its column's type ({error}); mend the row"))
    return True
