"""The best response against a random one of those that score less, as Zephyr picks its rejected ones (arXiv:2310.16944).

The draw depends on the step's seed and the prompt's id alone.
"""

from judges import Group
from pipeline.draws import draw
from pipeline.plugin import Settings
from rules import Pick, _scored

VERSION = 2


class Config(Settings):
    pass


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The one pair of a group, or why there is none: single, undecided, tie."""
    scored = _scored.decided(group)
    if reason := _scored.why_none(group, scored):
        return [], reason
    chosen = _scored.best(group, scored)
    lower = [i for i in scored if _scored.score(group, i) < _scored.score(group, chosen)]
    if not lower:
        return [], "tie"
    drawn = draw(seed, group.id)
    return [Pick(chosen, lower[drawn * len(lower) >> 64])], None
