"""Has a judge score every candidate, and keeps all it said: scores, the K x K win table, the detail.

The facts describe the judge as much as the candidates: `ties` (groups whose best score is shared),
`mean_spread` (best minus worst), `share_at_top` (responses with the highest score seen, high when a scale is
exhausted), `longer_wins` (P(the longer of two responses scores higher), ties counting half; 0.5 is unbiased) and
`cycles` (triples that beat each other in a ring). What the judge observed of itself, such as `position_rate`, stands in
`judge`. Whatever can be measured of a judge can be a limit, and a judge beyond one fails the step. Limits are gates: what
was judged stays judged when one is widened, and a step that is finished is not held to one that was moved since.
"""

from functools import partial
from typing import Annotated

import pyarrow as pa
from pydantic import Field, field_validator

import judges
from pipeline import plugin
from pipeline.artifact import Facts
from pipeline.errors import Problems, Refusal
from pipeline.placement import Need
from pipeline.plugin import Choice, Gate, Picks, Reads, Settings
from pipeline.tools import Tools
from stages import _columns, _join, _verdicts

VERSION = 1
MAKES = "judged"


class Config(Settings):
    candidates: Annotated[tuple[str, ...], Reads("candidates")]
    """What to judge; of several tables, the responses to the same prompt are one group, in the order of the tables."""
    prompts: Annotated[str | None, Reads("prompts", "candidates")] = None
    """Judge these prompts alone, or those of this table of responses; every table must have them all. If not given, all tables
    have the same prompts."""
    judge: Annotated[Choice, Picks("judges")]
    """Who judges."""
    max_undecided: Annotated[float, Gate()] = Field(0.1, ge=0, le=1)
    """The step fails if a larger share of the responses than this is left without a score. As all gates: what was judged is
    not judged again if this is moved, and a step that is finished is not held to it again."""
    position_rate: Annotated[tuple[float, float] | None, Gate()] = (0.35, 0.65)
    """The step fails if the share of verdicts for what was shown first is outside; None: it never does."""
    limits: Annotated[dict[str, tuple[float | None, float | None]], Gate()] = {}
    """Least and most that other rates may be, such as `{ties: [null, 0.6], order_flips: [null, 0.4], sample_agreement: [0.5, null]}`."""
    min_observations: Annotated[int, Gate()] = Field(20, ge=1)
    """Rates of fewer observations than this are reported and held to no limit; `max_undecided` always holds."""

    @field_validator("limits")
    @classmethod
    def _known(cls, limits: dict[str, tuple[float | None, float | None]]) -> dict[str, tuple[float | None, float | None]]:
        if "position_rate" in limits:
            raise ValueError("position_rate has a field of its own; write it there")
        for name in limits:
            if "." not in name and name not in _verdicts.RATES:  # a judge from elsewhere may count what it likes: `.name`
                raise ValueError(plugin.unknown("rate", name, _verdicts.RATES))
        return limits


def uses(config: Config) -> frozenset[Need]:
    """Whatever hardware the judge needs."""
    return judges.uses(config.judge)


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """As many rows as there are groups of candidates."""
    prompts = inputs.get("prompts")
    return {"rows": inputs.get("candidates") if prompts is None else prompts, "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    parts = tools.map(partial(_shard, config), _join.joined("candidates", "candidates", tools, "prompts"), "judged")
    if not parts:
        raise Refusal(f"{tools.address}: there are no candidates to judge; look at the step that made them")
    facts = _verdicts.summary(_verdicts.total(parts))
    share = facts["undecided"] / max(facts["responses"], 1)
    if share > config.max_undecided:
        raise Refusal(
            f"{tools.address}: judge '{config.judge.kind}' left {facts['undecided']} of {facts['responses']} responses undecided "
            f"({share:.1%}, at most {config.max_undecided:.1%} are allowed); check what it needs (a reference answer, a model), "
            f"or raise `max_undecided`"
        )
    _hold(config, facts, tools.address)
    return facts


def _hold(config: Config, facts: Facts, address: str) -> None:
    """Raises Problems with every limit that the judge is beyond, or that names nothing that was measured."""
    limits = dict(config.limits) if config.position_rate is None else {"position_rate": config.position_rate, **config.limits}
    rates = _verdicts.rates(facts)
    problems: list[str] = []
    for name, (low, high) in limits.items():
        # A limit on a rate holds for each judge of an ensemble; one on a rate that is not observed here, for nobody.
        last = name.removeprefix(".")
        found = {each: rate for each, rate in rates.items() if each == last or each.endswith(f".{last}")}
        for each, (rate, count) in found.items():
            if rate is None or count < config.min_observations or (low is None or rate >= low) and (high is None or rate <= high):
                continue
            problems.append(
                f"{address}: judge '{config.judge.kind}' has {each} {rate:.3f} over {count:g} observations, outside "
                f"{'-' if low is None else low} to {'-' if high is None else high}; {_verdicts.remedy(name)}, or widen the limit"
            )
    if problems:
        raise Problems(problems)


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    groups = _columns.groups(table)
    verdicts = judges.of(config.judge).judge(config.judge.config, groups, tools.of("judge"))
    _verdicts.check(groups, verdicts)
    for name, column in _verdicts.columns(verdicts).items():
        table = table.append_column(name, column)
    return table, _verdicts.statistics(groups, verdicts)
