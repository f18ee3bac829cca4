"""Has a judge score every candidate, and keeps all it said: scores, the K x K win table, the detail.

The facts describe the judge as much as the candidates: `ties` (groups whose best score is shared),
`mean_spread` (best minus worst), `share_at_top` (responses with the highest score seen, high when a scale is
exhausted) and `longer_wins` (P(the longer of two responses scores higher), ties counting half; 0.5 is unbiased).
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from pipeline.artifact import Artifact, Facts
from pipeline.errors import Refusal
from pipeline.plugin import Choice, Picks, Reads, Settings
from pipeline.tools import Tools
from stages import _columns, _verdicts

VERSION = 1
MAKES = "judged"


class Config(Settings):
    candidates: Annotated[str, Reads("candidates")]
    """What to judge."""
    judge: Annotated[Choice, Picks("judges")]
    """Who judges."""
    max_undecided: float = Field(0.1, ge=0, le=1)
    """The step fails if a larger share of the responses than this is left without a score."""


def uses(config: Config) -> str | None:
    """Whatever hardware the judge needs."""
    return config.judge.module.USES


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """As many rows as there are groups of candidates."""
    return {"rows": inputs.get("candidates"), "tokens": None}


def run(config: Config, inputs: dict[str, tuple[Artifact, ...]], out: Path, tools: Tools) -> Facts:
    parts = tools.map(partial(_shard, config), inputs["candidates"][0], "judged", out, uses=uses(config))
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
    return facts


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    groups = _columns.groups(table)
    verdicts = config.judge.module.judge(config.judge.config, groups, tools)
    _verdicts.check(groups, verdicts)
    for name, column in _verdicts.columns(verdicts).items():
        table = table.append_column(name, column)
    return table, _verdicts.statistics(groups, verdicts)
