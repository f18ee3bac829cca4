"""Pairs the response of one node with that of another, whatever a judge says: SPIN's demonstration against the policy's own
sample (arXiv:2401.01335, section 4), or Nash-MD's sample against its opponent's.

Of several responses of a node the first is taken.
"""

from typing import Literal

from judges import Group
from pipeline.plugin import Settings
from rules import Pick, _scored

VERSION = 1


class Config(Settings):
    chosen: str
    """Node (or source) of the chosen response, such as `demonstration` for those of the stage `demonstrations`."""
    rejected: str
    """Node of the rejected response, such as `candidates`."""
    identical: Literal["drop", "keep"] = "drop"
    """A pair of equal texts, which leaves nothing to tell apart."""
    empty: Literal["drop", "keep"] = "drop"
    """A pair with a response that is empty or white space."""


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The one pair of a group, or why there is none: identical, empty."""
    chosen, rejected = (_scored.made_by(group, node, "by_source")[0] for node in (config.chosen, config.rejected))
    texts = group.responses[chosen], group.responses[rejected]
    if config.identical == "drop" and texts[0] == texts[1]:
        return [], "identical"
    if config.empty == "drop" and not all(text.strip() for text in texts):
        return [], "empty"
    return [Pick(chosen, rejected)], None
