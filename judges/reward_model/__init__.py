"""A reward model: a transformer with one output that was trained on preferences by the Bradley-Terry model.

Any `AutoModelForSequenceClassification` folder in safetensors with one label and a chat template; the reward of a
response is its logit for the prompt and the response as one chat (Ouyang et al., arXiv:2203.02155, section 3.5).
A chat longer than the model's context is undecided: a reward of its beginning would be of another response.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from judges import Group, Verdict, _prompts
from metrics.win_rates import wins_aggregated
from pipeline.placement import Need
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 2
USES: frozenset[Need] = frozenset({"forward"})


class Config(Settings):
    model: Annotated[str, Reads("reward")]
    """The reward model."""
    scale: float = Field(1.0, gt=0)
    """P(i beats j) = sigmoid(scale * (reward_i - reward_j)); 1 is what it was trained for."""
    max_length: int | None = Field(None, ge=2)
    """Tokens of prompt and response beyond which a response is undecided; None: what the model was made for."""


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """The reward of each different response of each group, in batches over all groups."""
    if not groups:
        return []
    from judges.reward_model import network

    forward = tools.profile.forward
    loaded = tools.warm(network.opened, tools.model("model"), device=forward.device, dtype=forward.dtype)
    texts = [_prompts.distinct(group.responses) for group in groups]
    chats = [(group.prompt, text) for group, (once, _) in zip(groups, texts, strict=True) for text in once]
    rewards = iter(network.rewards(loaded, chats, config.max_length, forward.tokens_per_batch))
    return [_verdict(config, [next(rewards) for _ in once], at) for once, at in texts]


def _verdict(config: Config, rewards: list[float | None], at: list[int]) -> Verdict:
    scores = tuple(rewards[i] for i in at)
    known = [score for score in scores if score is not None]
    wins = wins_aggregated(known, config.scale) if len(known) == len(scores) else None
    return Verdict(scores, wins, tally={"too_long": (len(scores) - len(known), len(scores))})
