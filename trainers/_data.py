"""From tables to what training runs over: flat arrays of tokens, and units that point into them.

Joins the reference's log-probabilities to the rows, cuts what is too long, drops what has nothing left, and counts
it all. Knows tables; knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

import objectives
from engines import _chat
from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from trainers import Job
from trainers._tokens import Ids, Row, lists, token_rows


@dataclass(frozen=True)
class Examples:
    """All that training reads, as flat arrays. Legend: N responses, V tokens, R response tokens, U units."""

    tokens_V: np.ndarray
    """Prompt and response of each response, end to end, int64."""
    starts_N: np.ndarray
    """Where each response's sequence starts in `tokens_V`."""
    prompt_lengths_N: np.ndarray
    response_lengths_N: np.ndarray
    response_starts_N: np.ndarray
    """Where its response tokens start in `ref_logps_R`."""
    ref_logps_R: np.ndarray | None
    """float32, of response tokens alone."""
    win_rates_N: np.ndarray | None
    units_U: np.ndarray
    """(U, 2) chosen and rejected, or (U, 1): indices of responses."""
    groups_U: np.ndarray
    """Units with the same prompt have the same number."""
    labels_U: np.ndarray
    weights_U: np.ndarray
    facts: Facts

    @property
    def lengths_N(self) -> np.ndarray:
        """Tokens of prompt and response."""
        return self.prompt_lengths_N + self.response_lengths_N


def read(job: Job) -> Examples:
    """The examples of a job. Raises Refusal if the rows lack what the objective needs, or if none is left to train on."""
    needs = objectives.needs(job.objective)
    if "pairs" in needs and job.table != "pairs":
        raise Refusal(f"rows: objective '{job.objective.kind}' trains on pairs; {job.rows} holds {job.table}, name a node of pairs")
    tokenizer = _chat.load_tokenizer(job.model)
    reference = _reference(job) if "reference" in needs else None
    limit = job.optimisation.max_length
    gathered = _Gathered(
        limit, paired="pairs" in needs, chosen_only=job.table == "pairs" and "pairs" not in needs, referenced=reference is not None
    )
    at = 0
    for table in rows.stream(job.rows):
        labels = _numbers(table, "label", 1.0)
        weights = _numbers(table, "weight", 1.0)
        win_rates = _win_rates(table, needs)
        ids = table["id"].to_pylist()
        for i, row in enumerate(token_rows(table, job.table, tokenizer)):
            logps = None if reference is None else reference[at + i]
            gathered.add(ids[i], row, logps, win_rates[i], labels[i], weights[i])
        at += table.num_rows
    return gathered.done(job)


def _numbers(table: pa.Table, name: str, default: float) -> np.ndarray:
    """A column as floats, with a default where it is null or not there."""
    if name not in table.column_names:
        return np.full(table.num_rows, default)
    return table[name].fill_null(default).to_numpy()


def _win_rates(table: pa.Table, needs: frozenset[str]) -> list[tuple[float, float] | None]:
    """Win rates of chosen and rejected; Refusal if the objective needs them and a row has none."""
    if "win_rates" not in needs:
        return [None] * table.num_rows
    columns = [table[f"{side}_win_rate"] for side in ("chosen", "rejected")]
    for column in columns:
        if column.null_count:
            bad = table["id"].filter(column.is_null())
            raise Refusal(
                f"rows: {column.null_count} of {table.num_rows} pairs have no win rate, such as {bad[0].as_py()!r}; "
                "use a judge that makes a win table, or an objective that needs none"
            )
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def _reference(job: Job) -> list[list[np.ndarray]]:
    """The reference's log-probabilities of every row, in the order of the rows."""
    assert job.reference is not None, "the train stage checks this before anything runs"
    table = rows.read(job.reference)
    found = [lists(each) if len(each) else [] for each in lists(table["logprobs"].combine_chunks())]
    theirs, mine = table["id"].to_pylist(), rows.read(job.rows, ["id"])["id"].to_pylist()
    if theirs == mine:
        return found
    place = {id: i for i, id in enumerate(theirs)}
    absent = [id for id in mine if id not in place]
    strange = set(theirs) - set(mine)
    if absent or strange or len(place) != len(theirs) or len(set(mine)) != len(mine):
        example = absent[0] if absent else next(iter(sorted(strange)), theirs[0] if theirs else "")
        raise Refusal(
            f"reference: its {len(theirs)} rows are not the {len(mine)} rows trained on: {len(absent)} of these are missing there, "
            f"{len(strange)} others are there (such as {example!r}); let the logprobs node read the same rows as this one"
        )
    return [found[place[id]] for id in mine]


@dataclass
class _Gathered:
    """Examples in the making."""

    limit: int
    paired: bool
    chosen_only: bool
    """An objective without pairs reads the chosen responses of a pairs table."""
    referenced: bool
    sequences: list[Ids] = field(default_factory=list)
    logps: list[np.ndarray] = field(default_factory=list)
    prompt_lengths: list[int] = field(default_factory=list)
    win_rates: list[float] = field(default_factory=list)
    units: list[tuple[int, ...]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    seen_prompts: dict[bytes, int] = field(default_factory=dict)
    seen: dict[tuple[int, bytes, float], int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("rows", "retokenised", "truncated", "dropped"), 0))

    def add(
        self, id: str, row: Row, logps: Sequence[np.ndarray] | None, win_rates: tuple[float, float] | None, label: float, weight: float
    ) -> None:
        """Take one row: a unit of two responses, or one of each response."""
        self.counts["rows"] += 1
        self.counts["retokenised"] += row.retokenised
        if logps is not None and len(logps) != len(row.responses):
            raise Refusal(f"reference: row {id!r} has {len(logps)} responses there, {len(row.responses)} here; let both read the same rows")
        room = self.limit - len(row.prompt)
        group = self.seen_prompts.setdefault(row.prompt.tobytes(), len(self.seen_prompts))
        sides = row.responses[:1] if self.chosen_only else row.responses
        kept: list[int] = []
        for j, response in enumerate(sides):
            self.counts["truncated"] += len(response) > max(room, 0)
            response = response[: max(room, 0)]
            if len(response):
                mine = None if logps is None else self._aligned(id, logps[j], len(response), len(sides[j]))
                kept.append(self._response(group, row.prompt, response, mine, win_rates[j] if win_rates else np.nan))
        units = ([tuple(kept)] if len(kept) == len(sides) else []) if self.paired else [(one,) for one in kept]
        self.counts["dropped"] += (1 if self.paired else len(sides)) - len(units)
        for unit in units:
            self.units.append(unit)
            self.groups.append(group)
            self.labels.append(label)
            self.weights.append(weight)

    def _aligned(self, id: str, logps: np.ndarray, kept: int, whole: int) -> np.ndarray:
        """Reference log-probabilities of the kept tokens; they may have been computed with a smaller cut, but never for other tokens."""
        if len(logps) > whole or len(logps) < kept:
            raise Refusal(
                f"reference: row {id!r} has {len(logps)} log-probabilities for a response of {whole} tokens, {kept} of them trained on; "
                "compute them with this model's tokenizer and with at least this max_length"
            )
        return logps[:kept]

    def _response(self, group: int, prompt: Ids, response: Ids, logps: np.ndarray | None, win_rate: float) -> int:
        """The index of a response; in pairs, one that is there already is not repeated."""
        key = (group, response.tobytes(), win_rate)
        if self.paired and key in self.seen:
            return self.seen[key]
        self.seen[key] = len(self.sequences)
        self.sequences.append(np.concatenate([prompt, response]))
        self.prompt_lengths.append(len(prompt))
        self.win_rates.append(win_rate)
        if logps is not None:
            self.logps.append(logps)
        return self.seen[key]

    def done(self, job: Job) -> Examples:
        if not self.units:
            raise Refusal(
                f"rows: nothing to train on: of {self.counts['rows']} rows all were dropped, because no response token is left "
                f"within max_length {self.limit} ({self.counts['truncated']} responses were cut); raise max_length, or check {job.rows}"
            )
        weights = np.asarray(self.weights, np.float64)
        if weights.sum() <= 0:
            raise Refusal(f"rows: the weights of the {len(weights)} units add up to {weights.sum()}; give some of them a weight above 0")
        lengths = np.asarray([len(each) for each in self.sequences], np.int64)
        prompts = np.asarray(self.prompt_lengths, np.int64)
        responses = lengths - prompts
        units = np.asarray(self.units, np.int64)
        facts = {**self.counts, "units": len(units), "responses": len(lengths), "tokens": int(lengths.sum())}
        return Examples(
            tokens_V=np.concatenate(self.sequences).astype(np.int64),
            starts_N=np.cumsum(lengths) - lengths,
            prompt_lengths_N=prompts,
            response_lengths_N=responses,
            response_starts_N=np.cumsum(responses) - responses,
            ref_logps_R=np.concatenate(self.logps).astype(np.float32) if self.referenced else None,
            win_rates_N=None if np.isnan(self.win_rates).any() else np.asarray(self.win_rates, np.float64),
            units_U=units,
            groups_U=np.asarray(self.groups, np.int64),
            labels_U=np.asarray(self.labels, np.float64),
            weights_U=weights,
            facts=facts,
        )
