"""Per-token log-probabilities of responses under a fixed model: the reference of DPO, SPPO and their kin.

Paid for once and kept on disk, so that a change of objective, beta or learning rate does not pay again, and
computed by the very forward that training uses. One row for each input row, in the same order; in a row of pairs
the responses are (chosen, rejected).
"""

from functools import partial
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from pipeline.artifact import Facts
from pipeline.placement import Need
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "logprobs"


class Config(Settings):
    model: Annotated[str, Reads("policy")]
    """The reference."""
    rows: Annotated[str, Reads("pairs", "candidates", "judged")]
    """Whose responses are scored; the same node that training reads."""
    max_length: int | None = Field(None, ge=2)
    """Tokens of prompt and response beyond this are not scored; at least the training's max_length. None: all are."""


def uses(config: Config) -> frozenset[Need]:
    """Plain forward passes."""
    return frozenset({"forward"})


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """One row for each row; tokens are known only where they are cut."""
    count = inputs["rows"]
    return {"rows": count, "tokens": None if count is None or config.max_length is None else 2 * count * config.max_length}


def run(config: Config, tools: Tools) -> Facts:
    """Facts: rows, responses, tokens, mean log-probability of a token, and how many rows had to be tokenised again."""
    kind = "pairs" if tools.input("rows").manifest.makes == "pairs" else "candidates"
    parts = tools.map(partial(_shard, config, kind), tools.input("rows"), "logprobs")
    sums = {name: sum(part[name] for part in parts) for name in ("rows", "responses", "tokens", "truncated", "retokenised")}
    total = sum(part["logprob"] for part in parts)
    return {**sums, "mean_token_logprob": total / sums["tokens"] if sums["tokens"] else None}


def _shard(config: Config, kind: str, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    from models import score

    forward = tools.profile.forward
    model, tokenizer = tools.warm(score.opened, tools.model("model"), dtype=forward.dtype, device=forward.device)
    return score.score(model, tokenizer, table, kind, config.max_length, forward.tokens_per_batch)
