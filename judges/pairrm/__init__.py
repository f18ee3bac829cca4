"""PairRM: a 0.4B encoder that reads a prompt and two candidates at once and says which is better.

LLM-Blender, arXiv:2306.02561; weights `llm-blender/PairRM-hf` (MIT), English, loaded natively from a folder in
that layout. Every ordered pair of different candidates is compared, so that no position is favoured; the
directed logits stay in `detail`, and every score and win rate can be computed from them again. The prompt is
given raw (SPPO's released code gives it with the chat template applied). What does not fit is cut on the right:
of a response beyond some 400 tokens after a long prompt, the head alone is judged.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from judges import Group, Verdict
from metrics.win_rates import scores_from_logits, wins_aggregated, wins_pairwise
from models.messages import Message
from pipeline.placement import Need
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
USES: frozenset[Need] = frozenset({"forward"})


class Config(Settings):
    model: Annotated[str, Reads("ranker")]
    """A folder in the layout of `llm-blender/PairRM-hf`."""
    win_rate: Literal["pairwise", "aggregated"] = "pairwise"
    """P(i beats j): from the comparisons of i and j alone, sigmoid of their mean logit; or as the published SPPO code has
    it, from scores aggregated over all candidates, which is sharper and depends on the others (arXiv:2405.00675)."""
    source_max_length: int = Field(1224, ge=8)
    """Tokens of the prompt."""
    total_max_length: int = Field(2048, ge=24)
    """Tokens of prompt and both candidates; what the prompt leaves, the candidates share."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.total_max_length - self.source_max_length < 16:
            raise ValueError(f"source_max_length {self.source_max_length} leaves no room for candidates in {self.total_max_length}")
        return self


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """Compare all candidates of each group with each other, both ways round."""
    from judges.pairrm import network

    forward = tools.profile.forward
    model = tools.warm(network.load, tools.model("model"), forward.device, forward.dtype)
    lengths = network.Lengths(config.source_max_length, config.total_max_length)
    prompts = [source(group.prompt) for group in groups]
    tables = network.logits(model, prompts, [group.responses for group in groups], lengths, forward.tokens_per_batch)
    return [_verdict(config, table) for table in tables]


def source(prompt: Sequence[Message]) -> str:
    """The text that PairRM reads as the prompt: of one message its content, of several each with its role before it."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n".join(f"{message['role'].upper()}: {message['content']}" for message in prompt)


def _verdict(config: Config, raw: list[list[float]]) -> Verdict:
    # Rounded first, so that what is kept gives exactly these scores again.
    table = [[round(logit, 6) for logit in line] for line in raw]
    scores = scores_from_logits(table)
    wins = wins_pairwise(table) if config.win_rate == "pairwise" else wins_aggregated(scores)
    return Verdict(scores, wins, {"logits": table})
