"""Rows with responses and what somebody thought of them: judged groups, or candidates where the scores are left aside.

Responses to the same prompt are one group, unless the rows bring ids: HelpSteer has a row for each response. To know when a group
is whole, prompts are counted first, so the source is read twice, and in memory are only the groups that are not whole yet, beside
the prompts' ids.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from models.messages import Message, prompt_of, shown
from pipeline.errors import Refusal
from pipeline.plugin import unknown
from stages import _adopt_rows
from stages.take import values
from stages.take.counts import Counts
from stages.take.values import Row

Score = str | dict[str, float] | None
_RATING = {"ultrafeedback": "overall_score", "helpsteer": "helpfulness"}
Rows = Iterator[tuple[str, Row]]


@dataclass(frozen=True)
class Asked:
    """How rows are read."""

    shape: str
    score: Score
    keep: tuple[str, ...]
    least: int
    """A group of fewer responses than this is malformed."""


@dataclass
class Group:
    """What one row gives, or several with the same prompt."""

    prompt: tuple[Message, ...]
    texts: list[str]
    sources: list[str | None]
    scores: list[float | None]
    meta: Row
    given: str | None = None
    """The id that the row brought."""
    rows: int = field(default=1)


def made(read: Callable[[], Rows], asked: Asked, counts: Counts) -> Iterator[tuple[str, Row]]:
    """Rows of the judged table, each with where it (or the last of its rows) stood. `read` begins anew each time."""
    left = Counter(_key(group) for _, _, group in _groups(read(), asked) if group is not None and group.given is None)
    open_groups: dict[str, Group] = {}
    for where, problem, group in _groups(read(), asked):
        counts.read += 1
        if group is None:
            assert problem is not None
            counts.malformed(problem)
            continue
        identity = group.given or _key(group)
        if group.given is None:
            left[identity] -= 1
            group = _joined(open_groups.pop(identity, None), group)
            if left[identity]:
                open_groups[identity] = group
                continue
            del left[identity]
        if len(group.texts) < asked.least:
            few = f"{where}: a judged group has two responses or more, not {len(group.texts)}; add the others, or write `table: candidates`"
            counts.malformed(Refusal(few), group.rows)
        elif group.given is None or counts.once(identity, where):
            counts.merged += group.rows - 1
            counts.scored(group.scores)
            yield where, _row(identity, group)


def weights(shape: str, score: Score) -> dict[str, float]:
    """The ratings that make a score, with their weights; none where the shape has scores of its own."""
    score = score or _RATING.get(shape)
    return {} if score is None else {score: 1.0} if isinstance(score, str) else score


def _key(group: Group) -> str:
    return _adopt_rows.prompt_id(group.prompt)


def _joined(before: Group | None, group: Group) -> Group:
    if before is None:
        return group
    before.texts += group.texts
    before.sources += group.sources
    before.scores += group.scores
    before.rows += group.rows
    return before


def _row(identity: str, group: Group) -> Row:
    responses = [
        {"text": text, "token_ids": None, "logprob": None, "finish_reason": None, "source": source}
        for text, source in zip(group.texts, group.sources, strict=True)
    ]
    return {"id": identity, "prompt": list(group.prompt), "meta": group.meta, "responses": responses, "scores": group.scores}


def _groups(found: Rows, asked: Asked) -> Iterator[tuple[str, Refusal | None, Group | None]]:
    """Each row with where it stands, and its group or why it is none."""
    for where, row in found:
        try:
            group = _READ[asked.shape](row, where, weights(asked.shape, asked.score))
            group.meta, group.given = _meta(row, asked.keep, where), values.identity(row, where)
        except Refusal as problem:
            yield where, problem, None
        else:
            yield where, None, group


def _meta(row: Row, keep: tuple[str, ...], where: str) -> Row:
    meta = {name: values.column(row, name, where) for name in keep}
    for name, value in meta.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise Refusal(
                f"{where}: keep: `{name}` holds {shown(value)}, which JSON has not; leave it out, or convert it to text"
            ) from None
    return meta


def _ultrafeedback(row: Row, where: str, score: dict[str, float]) -> Group:
    """{instruction, completions: [{response, model, overall_score, fine-grained_score, annotations: {helpfulness: {Rating}, ...}}]}"""
    prompt = prompt_of(values.column(row, "instruction", where), f"{where}: `instruction`")
    texts: list[str] = []
    sources: list[str | None] = []
    scores: list[float | None] = []
    for at, each in enumerate(values.items(values.column(row, "completions", where), where, "`completions`")):
        place = f"{where}: completions[{at}]"
        if not isinstance(each, dict):
            raise Refusal(f"{place} is an object with a `response`, not {shown(each)}; mend the row")
        body: Row = each  # pyright: ignore[reportUnknownVariableType]
        texts.append(values.text(body.get("response"), place, "`response`"))
        sources.append(body["model"] if isinstance(body.get("model"), str) else None)
        aspects: Row = body.get("annotations") or {}
        ratings = {**{name: _rating(about) for name, about in aspects.items()}, **body}
        scores.append(_score(ratings, score, place))
    return Group(prompt, texts, sources, scores, {})


def _rating(about: Any) -> Any:
    """The rating of one aspect, which the dataset has as a text; `N/A` is null."""
    value = about.get("Rating") if isinstance(about, dict) else None  # pyright: ignore
    if not isinstance(value, str):
        return value  # pyright: ignore[reportUnknownVariableType]
    return float(value) if value.replace(".", "", 1).isdigit() else None


def _helpsteer(row: Row, where: str, score: dict[str, float]) -> Group:
    """{prompt, response, helpfulness, correctness, coherence, complexity, verbosity}: one response a row."""
    prompt = prompt_of(values.turns(values.column(row, "prompt", where)), f"{where}: `prompt`")
    said = values.text(values.column(row, "response", where), where, "`response`")
    return Group(prompt, [said], [None], [_score(row, score, where)], {})


def _group(row: Row, where: str, score: dict[str, float]) -> Group:
    """{prompt, responses: [text], scores: [number or null]}"""
    prompt = prompt_of(values.column(row, "prompt", where), f"{where}: `prompt`")
    found = values.items(values.column(row, "responses", where), where, "`responses`")
    rated = values.items(values.column(row, "scores", where), where, "`scores`")
    if len(found) != len(rated):
        raise Refusal(f"{where}: has {len(rated)} scores for {len(found)} responses; give one to each, null where nobody knows")
    texts = [values.text(each, where, f"responses[{at}]") for at, each in enumerate(found)]
    return Group(prompt, texts, [None] * len(texts), [values.number(each, where, f"scores[{at}]") for at, each in enumerate(rated)], {})


def _score(ratings: Row, score: dict[str, float], where: str) -> float | None:
    """One rating, or the weighted sum of several; None if one of them is."""
    total = 0.0
    for name, weight in score.items():
        if name not in ratings:
            raise Refusal(f"{where}: score: {unknown('rating', name, list(ratings))}; name ratings that the rows have")
        rating = values.number(ratings[name], where, f"`{name}`")
        if rating is None:
            return None
        total += weight * rating
    return total


_READ: dict[str, Callable[[Row, str, dict[str, float]], Group]] = {
    "ultrafeedback": _ultrafeedback,
    "helpsteer": _helpsteer,
    "group": _group,
}
