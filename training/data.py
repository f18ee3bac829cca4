"""From tables to examples: joins log-probabilities, scores and further responses to the rows that are trained on.

Knows tables; knows no model. What a row becomes depends on what the objective needs: a unit of two responses, one unit of
each response, the chosen response alone, or all responses of the row as one unit.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import objectives
from models import chat, tokens
from models.tokens import Ids, Row, lists, token_rows
from pipeline import rows
from pipeline.errors import Refusal
from training import labels as pair_labels
from training.examples import Examples, ExamplesBuilder, Response, Unit
from training.job import ExtraResponses, Job

Logps = list[list[np.ndarray]]
"""Of each row, of each response."""


def read(job: Job) -> Examples:
    """The examples of a job. Raises Refusal if the rows lack what the objective needs, or if none is left to train on."""
    needs = objectives.needs(job.objective)
    tables = objectives.tables(job.objective)
    if job.table not in tables:
        raise Refusal(
            f"rows: objective '{job.objective.kind}' trains on {' or '.join(tables)}; {job.rows} holds {job.table}, name a node of these"
        )
    tokenizer = chat.load_tokenizer(job.model.folder)
    known = [_logps(path, job.rows, what) for path, what in _policies(job)]
    degrees = job.objective.module.degrees(job.objective.config) if "degrees" in needs else None
    extras = [_extra(beside, tokenizer, degrees) for beside in job.extra]
    kind = "pairs" if job.table == "pairs" else "candidates"
    before = {} if job.labels is None else pair_labels.read(job.labels)
    least = 2 if needs & {"pairs", "groups"} else 1
    gathered = ExamplesBuilder(job.optimisation.max_length, least, "pairs" in needs)
    at = 0
    for table in rows.stream(job.rows):
        about = _About.of(table, job.table, needs)
        for i, row in enumerate(token_rows(table, kind, tokenizer)):
            gathered.counts["rows"] += 1
            gathered.counts["retokenised"] += row.retokenised
            mine = [None if logps is None else logps[at + i] for logps in known]
            for unit in _units(about.ids[i], row, about.sides(i, row, mine, needs), needs, job.table):
                gathered.add(Unit(*unit, _beside(extras, about, i), before.get(about.ids[i], about.labels[i]), about.weights[i]))
        at += table.num_rows
    extras_referenced = any(beside.reference is not None for beside in job.extra)
    return gathered.done(str(job.rows), len(known), referenced=known[0] is not None, extras_referenced=extras_referenced)


def _policies(job: Job) -> Iterator[tuple[Path | None, str]]:
    """Whose log-probabilities are joined: the reference's, then the history's."""
    needs = objectives.needs(job.objective)
    yield job.reference if "reference" in needs else None, "reference"
    for path in job.history:
        yield path, "history"


def _logps(path: Path | None, of: Path, what: str) -> Logps | None:
    """The log-probabilities of every row of `of`, in the order of its rows."""
    if path is None:
        return None
    theirs: list[str] = []
    found: Logps = []
    for table in rows.stream(path):  # together they may be more items than one Arrow array holds
        theirs += table["id"].to_pylist()
        found += [lists(each) if len(each) else [] for each in lists(table["logprobs"].combine_chunks())]
    mine = rows.read(of, ["id"])["id"].to_pylist()
    if theirs == mine:
        return found
    place = {id: i for i, id in enumerate(theirs)}
    absent = [id for id in mine if id not in place]
    strange = set(theirs) - set(mine)
    if absent or strange or len(place) != len(theirs) or len(set(mine)) != len(mine):
        example = absent[0] if absent else next(iter(sorted(strange)), theirs[0] if theirs else "")
        raise Refusal(
            f"{what}: its {len(theirs)} rows are not the {len(mine)} rows trained on: {len(absent)} of these are missing there, "
            f"{len(strange)} others are there (such as {example!r}); let the logprobs node read the same rows as this one"
        )
    return [found[place[id]] for id in mine]


def _extra(beside: ExtraResponses, tokenizer: Any, degrees: int | None) -> dict[str, tuple[Ids, Response]]:
    """The first response of each row, by the row's id."""
    table = rows.read(beside.rows)
    logps = _logps(beside.reference, beside.rows, "extra_reference")
    found: dict[str, tuple[Ids, Response]] = {}
    for i, (id, row) in enumerate(zip(table["id"].to_pylist(), token_rows(table, "candidates", tokenizer), strict=True)):
        if row.responses:
            degree = 0 if degrees is None else _degree(table["meta"][i].as_py(), id, degrees)
            first, known = row.responses[0], () if logps is None else (logps[i][0],)
            found[id] = row.prompt, Response(first.ids, known, degree=degree, mask=first.mask)
    return found


def _degree(meta: str | None, id: str, degrees: int) -> int:
    degree = json.loads(meta or "{}").get("degree")
    if not isinstance(degree, int) or not 0 <= degree < degrees:
        raise Refusal(
            f"extra: row {id!r} has degree {degree!r}, and the objective tells {degrees} of them apart, from 0; "
            "name nodes of the stage `delete_phrases`, with as many degrees"
        )
    return degree


def _beside(extras: Sequence[dict[str, tuple[Ids, Response]]], about: "_About", i: int) -> tuple[tuple[Ids, Response], ...]:
    """A row's extra responses, each by the row's own id or by its prompt's."""
    found: list[tuple[Ids, Response]] = []
    for which, extra in enumerate(extras):
        one = extra.get(about.ids[i]) or extra.get(about.prompt_ids[i])
        if one is None:
            raise Refusal(
                f"extra: table {which + 1} of {len(extras)} has no response for row {about.ids[i]!r} or its prompt "
                f"{about.prompt_ids[i]!r}, among {len(extra)} rows; let its node answer the prompts that are trained on"
            )
        found.append(one)
    return tuple(found)


@dataclass(frozen=True)
class _About:
    """What a table says of its rows besides tokens."""

    ids: list[str]
    prompt_ids: list[str]
    labels: list[float]
    weights: list[float]
    win_rates: list[Sequence[float | None]] | None
    scores: list[Sequence[float | None]] | None

    @staticmethod
    def of(table: pa.Table, kind: str, needs: frozenset[str]) -> "_About":
        ids = table["id"].to_pylist()
        prompt_ids = table["prompt_id"].to_pylist() if kind == "pairs" else ids
        labels, weights = (_numbers(table, kind, name) for name in ("label", "weight"))
        win_rates = _sides(table, kind, "win_rate", needs) if "win_rates" in needs else None
        return _About(ids, prompt_ids, labels, weights, win_rates, _sides(table, kind, "score", needs) if "scores" in needs else None)

    def sides(self, i: int, row: Row, known: Sequence[list[np.ndarray] | None], needs: frozenset[str]) -> list[Response]:
        """The responses of row i with all that is known of them; those that the judge left undecided are left out."""
        for logps in known:
            if logps is not None and len(logps) != len(row.responses):
                theirs, ours = len(logps), len(row.responses)
                raise Refusal(f"reference: row {self.ids[i]!r} has {theirs} responses there, {ours} here; let both read the same rows")
        phrases = _phrases(*row.responses) if "phrases" in needs else (None,) * len(row.responses)
        made: list[Response] = []
        for j, (response, marked) in enumerate(zip(row.responses, phrases, strict=True)):
            rate = None if self.win_rates is None else self.win_rates[i][j]
            score = None if self.scores is None else self.scores[i][j]
            if (self.win_rates is not None and rate is None) or (self.scores is not None and score is None):
                continue
            mine = tuple(None if logps is None else logps[j] for logps in known)
            rate, score = (np.nan if each is None else each for each in (rate, score))
            made.append(Response(response.ids, mine, rate, score, j == 0, marked, mask=response.mask))
        return made


def _units(id: str, row: Row, sides: list[Response], needs: frozenset[str], table: str) -> list[tuple[str, Ids, tuple[Response, ...]]]:
    """What a row becomes: id, prompt and responses of each unit."""
    if needs & {"pairs", "groups"}:
        return [(id, row.prompt, tuple(sides))]
    if table == "pairs" and "desirable" not in needs:
        sides = sides[:1]
    return [(id, row.prompt, (side,)) for side in sides]


def _numbers(table: pa.Table, kind: str, name: str) -> list[float]:
    """A column of pairs as floats, 1 where it is null; 1 for rows of another kind, which have none."""
    return table[name].fill_null(1.0).to_pylist() if kind == "pairs" else [1.0] * table.num_rows


def _sides(table: pa.Table, kind: str, name: str, needs: frozenset[str]) -> list[Sequence[float | None]]:
    """What a judge said of each response; Refusal if it said nothing of a pair's."""
    if kind != "pairs":  # P(response beats the anchor) is what an `anchor` judge scores by
        return table["scores"].to_pylist()
    columns = [table[f"{side}_{name}"] for side in ("chosen", "rejected")]
    for column in columns if needs & {"pairs", "desirable"} else columns[:1]:
        if column.null_count:
            bad = table["id"].filter(column.is_null())
            what = name.replace("_", " ")
            raise Refusal(
                f"rows: {column.null_count} of {table.num_rows} pairs have no {what}, such as {bad[0].as_py()!r}; "
                f"use a judge that {'makes a win table' if name == 'win_rate' else 'scores'}, or an objective that needs none"
            )
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def _phrases(chosen: tokens.Response, rejected: tokens.Response) -> tuple[np.ndarray, np.ndarray]:
    """For each token 0, or the number (from 1) of the differing stretch that it is in; the same on both sides.

    Stretches are of the tokens that are trained on.
    """
    marks = np.zeros(len(chosen.ids), np.int64), np.zeros(len(rejected.ids), np.int64)
    places = np.flatnonzero(chosen.kept), np.flatnonzero(rejected.kept)
    texts = chosen.ids[places[0]].tolist(), rejected.ids[places[1]].tolist()
    blocks = SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    for number, (_, a, b, c, d) in enumerate((block for block in blocks if block[0] != "equal"), start=1):
        marks[0][places[0][a:b]] = number
        marks[1][places[1][c:d]] = number
    return marks
