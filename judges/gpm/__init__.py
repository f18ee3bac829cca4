"""The General Preference Model: an embedding for each response, and a skew-symmetric score of any two (arXiv:2410.02197).

s(i > j) = sum over blocks of gate * (v_i[even] v_j[odd] - v_i[odd] v_j[even]) and P(i beats j) = sigmoid(s / tau): K
responses cost K forwards, and preferences may run in circles, which no single score can say. A folder in safetensors of a
causal language model with `value_head.weight` and, if the prompt weighs the blocks, `prompt_head.weight`. Chats beyond
`max_length` are cut on the right, as in the published example; `cut` is their share.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from judges import Group, Verdict, _prompts
from metrics.win_rates import win_rates, wins_pairwise
from pipeline.placement import Need
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

if TYPE_CHECKING:
    from judges.gpm import network

VERSION = 1
USES: frozenset[Need] = frozenset({"forward"})


class Config(Settings):
    model: Annotated[str, Reads("preference")]
    """The preference model."""
    tau: float = Field(0.1, gt=0)
    """Temperature; 0.1 is what the published models were trained with."""
    scores: Literal["preference", "win_rate"] = "preference"
    """A response's score: the mean over all K of s / tau (GPO's), or the mean of its row of the win table (SPPO's)."""
    symmetrize: Literal["half_diff", "diff"] = "half_diff"
    """`half_diff` is s itself; `diff` is s(i > j) - s(j > i), twice that: the data that were released with the paper have it."""
    max_length: int = Field(4096, ge=8)
    """Tokens of prompt and response that are read."""


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """Embed each different response of each group once, in batches over all groups; compare all within a group."""
    if not groups:
        return []
    from judges.gpm import network

    forward = tools.profile.forward
    loaded = tools.warm(network.opened, tools.model("model"), device=forward.device, dtype=forward.dtype)
    texts = [_prompts.distinct(group.responses) for group in groups]
    chats = [(group.prompt, text) for group, (once, _) in zip(groups, texts, strict=True) for text in once]
    embedded = iter(network.embeddings(loaded, chats, config.max_length, forward.tokens_per_batch))
    return [_verdict(config, [next(embedded) for _ in once], at) for once, at in texts]


def _verdict(config: Config, embedded: "Sequence[network.Embedded]", at: Sequence[int]) -> Verdict:
    import torch

    from judges.gpm import network

    if not at:
        return Verdict(())
    own = [embedded[i] for i in at]
    # A causal model reads the prompt alike before every response.
    gate = own[0].gate_C
    vectors_KD = torch.stack([each.vector_D for each in own]).double()  # noqa: N806 - shape suffix
    table = network.preference(vectors_KD, None if gate is None else gate.double()) * (2 if config.symmetrize == "diff" else 1) / config.tau
    # Rounded first, so that what is kept gives exactly these scores again.
    logits = [[round(logit, 6) for logit in line] for line in table.tolist()]
    wins = wins_pairwise(logits)
    scores = tuple(sum(line) / len(line) for line in logits) if config.scores == "preference" else win_rates(wins)
    detail: dict[str, object] = (
        {"logits": logits} if gate is None else {"logits": logits, "gate": [round(each, 6) for each in gate.tolist()]}
    )
    return Verdict(scores, wins, detail, {"cut": (sum(each.cut for each in own), len(own))})
