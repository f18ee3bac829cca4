"""Has a judge compare the judgements that a rubric judge wrote, so that a policy can learn to judge: Meta-Rewarding (arXiv:2407.19594).

For each prompt the judgements of one response are compared, of the one whose grades vary most, each pair in both orders.
What comes out is a judged table whose prompts are what the rubric judge was asked, word for word, whose responses are the
judgements that could be read, and whose scores are their Elo ratings (metrics/elo.py). A win counts less from the place
that wins more often, over the whole table. `pair` with `best_vs_worst` and `max_chosen_characters` makes pairs of it. No
engine's token ids are kept, so training tokenises these pairs itself.

The facts are those of `judge`, and in `judge` also `higher_grade_wins` (of the battles between judgements with different
grades, how many the higher grade won), with what was compared, what was not and why, and the weights of the two places.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import fsum
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, model_validator

import judges
from judges import Group, Verdict
from metrics import elo
from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.placement import Need
from pipeline.plugin import Choice, Gate, Picks, Reads, Settings
from pipeline.tools import Tools
from stages import _columns, _verdicts

VERSION = 1
MAKES = "judged"

QUESTION = """A judge was asked to grade a response to a user; what it was asked is the conversation below. Two of its judgements of
that same response follow, as responses A and B. Say which is the better judgement: weigh first whether its grade is the one that
the rubric gives to the response, then whether what it says of the response is true, then whether it is clear and keeps to what was
asked. A high or a low grade in itself is no merit, and neither is length, nor the place in which a judgement is shown."""


class Config(Settings):
    judged: Annotated[str, Reads("judged")]
    """What the rubric judge said, with `keep_questions: true`."""
    judge: Annotated[Choice, Picks("judges")]
    """Who compares the judgements: `pairwise`, whose own `question` is, if not given, one about judgements."""
    l2: float = Field(1e-3, gt=0)
    """Pulls the ratings together: without it, a judgement that never loses has no finite one."""
    max_undecided: Annotated[float, Gate()] = Field(0.1, ge=0, le=1)
    """The step fails if a larger share of the battles than this has no verdict."""
    position_rate: Annotated[tuple[float, float] | None, Gate()] = (0.35, 0.65)
    """The step fails if the share of battles that the first shown wins is outside; None: it never does. The weights make up
    for a place that is favoured, until little is left of the judge's opinion."""
    min_observations: int = Field(20, ge=1)
    """A position rate of fewer battles than this is reported and held to no limit."""

    @model_validator(mode="after")
    def _asks_in_both_orders(self) -> "Config":
        if self.judge.kind != "pairwise" or self.judge.config.against != "all":
            raise ValueError("judge: battles are all pairs in both orders; write {kind: pairwise, against: all, model: ...}")
        return self


def uses(config: Config) -> frozenset[Need]:
    """Whatever hardware the judge needs."""
    return judges.uses(config.judge)


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """At most one row for each prompt."""
    return {"rows": inputs.get("judged"), "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    compared = tools.work / "compared"
    parts = tools.map(partial(_shard, config), tools.input("judged"), "judged", compared)
    heard: Facts = _verdicts.total(parts) if parts else {"rows": 0}
    if not heard["rows"]:
        raise Refusal(f"{tools.address}: no response has two different judgements that can be read; raise the `samples` of its judge")
    # What a place counts depends on all battles, so that ratings wait for the last of them.
    shares = [share for table in rows.stream(compared, ["detail"]) for said in _said(table) for _, _, share in _battles(said)]
    first = fsum(shares)
    weights = elo.place_weights(first, len(shares) - first)
    told: list[Facts] = []
    rows.write(tools.out, "judged", (_rated(table, config.l2, weights, told) for table in rows.stream(compared)))
    sums = _verdicts.total(told)
    facts = {
        **_verdicts.summary({**sums, "tally": {**heard["tally"], **sums["tally"]}}),
        "prompts": heard["rows"] + heard["one_judgement"],
        "dropped": {"one_judgement": heard["one_judgement"]},
        "battles": len(shares),
        "undecided_battles": heard["asked"] - len(shares),
        "weights": weights and {"first": round(weights[0], 6), "second": round(weights[1], 6)},
    }
    _hold(config, facts, heard["asked"], tools.address)
    return facts


def _hold(config: Config, facts: Facts, asked: int, address: str) -> None:
    """Raises Refusal if too many battles have no verdict, or if the judge looks at the place too much."""
    undecided = facts["undecided_battles"]
    if undecided > config.max_undecided * asked:
        raise Refusal(
            f"{address}: judge '{config.judge.kind}' left {undecided} of {asked} battles undecided ({undecided / asked:.1%}, at most "
            f"{config.max_undecided:.1%} are allowed); {_verdicts.remedy('parse_failures')}, or raise `max_undecided`"
        )
    rate, count = facts["judge"]["position_rate"], facts["observations"]["position_rate"]
    low, high = config.position_rate or (0.0, 1.0)
    if rate is not None and count >= config.min_observations and not low <= rate <= high:
        raise Refusal(
            f"{address}: judge '{config.judge.kind}' has position_rate {rate:.3f} over {count:g} battles, outside {low} to {high}; "
            f"{_verdicts.remedy('position_rate')}, or train on answers alone in this round, or widen the limit"
        )


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    """Rows of judgements with their grades as scores, and what the judge said of each pair in the detail."""
    judged = tools.inputs["judged"][0].path
    source = f"{judged.parent.name}/{judged.name}"
    made = [_judgements(*each, source) for each in zip(table["id"].to_pylist(), _said(table), strict=True)]
    kept = [row for row in made if row is not None]
    groups = [Group(row["id"], tuple(row["prompt"]), tuple(each["text"] for each in row["responses"]), {}) for row in kept]
    settings = config.judge.config
    settings = settings if settings.question else settings.model_copy(update={"question": QUESTION})
    verdicts = [_heard(verdict) for verdict in judges.of(config.judge).judge(settings, groups, tools.of("judge"))]
    for row, verdict in zip(kept, verdicts, strict=True):
        row["detail"] |= verdict.detail
    asked = sum(2 * len(row["detail"]["orders"]) for row in kept)
    facts = {**_verdicts.statistics(groups, verdicts), "asked": asked, "one_judgement": len(made) - len(kept)}
    return rows.from_pylist("judged", kept), facts


def _heard(verdict: Verdict) -> Verdict:
    """Every judgement says its score, so that how many had to be neutralised tells nothing here."""
    return replace(verdict, tally={name: value for name, value in (verdict.tally or {}).items() if name != "neutralised"})


def _judgements(identity: str, said: Any, source: str) -> dict[str, Any] | None:
    """The different judgements of the response whose grades vary most (the first of equals); None of less than two."""
    if not isinstance(said, dict) or "questions" not in said:
        raise Refusal(
            f"judged: {source} does not hold what its judge was asked about {identity!r}; let a `rubric` judge make it, "
            "with `keep_questions: true`"
        )
    variances = [-1.0 if each is None else each for each in said["variance"]]
    if not variances:
        return None
    at = variances.index(max(variances))
    grades = dict(zip((said["texts"][at][place] for place in said["readable"][at]), said["samples"][at], strict=True))
    if len(grades) < 2:
        return None
    return {
        "id": f"{identity}.response-{at}",  # unlike the prompt's, so that pairs of judgements and of answers can be mixed
        "prompt": [{"role": "user", "content": said["questions"][at]}],
        "meta": {"prompt_id": identity, "response": at},
        "responses": [{"text": text, "finish_reason": "stop", "source": source} for text in grades],
        "scores": list(grades.values()),
        "detail": {"grades": list(grades.values()), "variance": variances[at]},
    }


def _said(table: pa.Table) -> Iterator[Any]:
    for text in table["detail"].to_pylist():
        yield None if text is None else json.loads(text)


def _battles(said: dict[str, Any]) -> Iterator[elo.Battle]:
    for i, j, shown_first, shown_second in said["orders"]:
        if shown_first is not None:
            yield i, j, shown_first
        if shown_second is not None:
            yield j, i, shown_second


def _rated(table: pa.Table, l2: float, weights: tuple[float, float] | None, told: list[Facts]) -> pa.Table:
    """The rows with ratings as scores, None for who met nobody; their statistics go to `told`."""
    groups = _columns.groups(table)
    verdicts: list[Verdict] = []
    for group, said in zip(groups, _said(table), strict=True):
        battles = list(_battles(said))
        met = {player for i, j, _ in battles for player in (i, j)}
        ratings = elo.elo(elo.weighted_wins(battles, len(group.responses), weights or (0.0, 0.0)), l2)
        # What is equal but for rounding is equal; and 0.0 is not to be -0.0.
        scores = tuple(round(float(rating), 9) + 0.0 if player in met else None for player, rating in enumerate(ratings))
        grades = said["grades"]
        higher = [share if grades[i] > grades[j] else 1 - share for i, j, share in battles if grades[i] != grades[j]]
        verdicts.append(Verdict(scores, tally={"higher_grade_wins": (fsum(higher), len(higher))}))
    told.append(_verdicts.statistics(groups, verdicts))
    return table.set_column(table.schema.get_field_index("scores"), "scores", _verdicts.columns(verdicts)["scores"])
