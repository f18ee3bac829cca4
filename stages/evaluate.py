"""Measures generated candidates: head to head against others, by task accuracy where there is a checker, by length.

Both sides' responses to a prompt are judged as one group. The win rate of a prompt is the mean, over all
cross pairs, of P(ours beats theirs); its confidence interval is a percentile bootstrap over prompts (Efron,
1979), because responses to one prompt are not independent. Accuracy is that of `exact_answer` on the rows whose
`meta` holds an answer, whatever the judge of this step is. The numbers are in `report.json` and in the facts;
the verdicts they come from lie beside it as a `judged` table (of `source` "candidates" and "against").
"""

import json
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

import judges
from pipeline import artifact
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.placement import Need
from pipeline.plugin import Choice, Picks, Reads, Settings
from pipeline.tools import Tools
from stages import _columns, _join, _matches

VERSION = 1
MAKES = "report"


class Config(Settings):
    candidates: Annotated[str, Reads("candidates")]
    """What to measure."""
    against: Annotated[str | None, Reads("candidates")] = None
    """What to measure it against: responses to the same prompts, such as `samples@start`."""
    judge: Annotated[Choice, Picks("judges")]
    """Who compares; preferably not the judge of the rounds alone, which training has learned to please."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of the intervals."""
    resamples: int = Field(1000, ge=100)
    """Of the bootstrap."""


def uses(config: Config) -> frozenset[Need]:
    """Whatever hardware the judge needs."""
    return judges.uses(config.judge)


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """A report has no rows."""
    return {"rows": None, "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    # A comparison over part of the prompts would be another measurement, so sides that answered others are refused.
    matches = _join.sides([_matches.OURS] if config.against is None else [_matches.OURS, _matches.THEIRS], tools)
    judged = tools.out / "judged"
    parts = tools.map(partial(_shard, config), matches, "judged", judged)
    values = {name: [v for part in parts for v in part[name]] for name in parts[0]}
    report = _report(config, values, tools)
    artifact.write_file(tools.out / "report.json", json.dumps(report, indent=2, sort_keys=True).encode())
    return report


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    groups = _columns.groups(table)
    verdicts = judges.of(config.judge).judge(config.judge.config, groups, tools.of("judge"))
    return _matches.measured(table, groups, verdicts)


def _report(config: Config, values: dict[str, list[Any]], tools: Tools) -> Facts:
    """All numbers of a report; `values` holds one entry a prompt, None where nothing can be said of it."""

    def mean(name: str) -> float | None:
        known = [v for v in values[name] if v is not None]
        return round(sum(known) / len(known), 6) if known else None

    def with_interval(name: str) -> Facts:
        known = [v for v in values[name] if v is not None]
        low, high = _matches.interval(known, config.confidence, config.resamples, tools.seed)
        return {name: mean(name), f"{name}_low": low, f"{name}_high": high, f"{name}_prompts": len(known)}

    report: Facts = {
        "judge": config.judge.kind,
        "confidence": config.confidence,
        "prompts": len(values["responses"]),
        "responses": sum(values["responses"]),
        "undecided": sum(values["undecided"]),
        "truncated": mean("truncated"),
        "mean_characters": mean("characters"),
        "mean_score": mean("score"),
        **with_interval("accuracy"),
    }
    if config.against is not None:
        report |= with_interval("win_rate")
        report |= {
            "against_responses": sum(values["against_responses"]),
            "against_accuracy": mean("against_accuracy"),
            "against_mean_characters": mean("against_characters"),
            "against_mean_score": mean("against_score"),
        }
        if report["win_rate"] is None:
            raise Refusal(
                f"{tools.address}: judge '{config.judge.kind}' decided no comparison of {report['prompts']} prompts; check what it needs"
            )
    return report
