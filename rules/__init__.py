"""Pair rules say which responses of a judged group are trained on. Each file beside this one is one rule.

A rule module has `VERSION`, `Config` and

    choose(config, group: Group, seed: int) -> tuple[list[Pick], str | None]

the picks of one judged group, and the reason if there are none (a short name such as "tie", counted as a fact). What a rule
draws depends on `seed`, the step's, and on the group's id, and on no position.
Near-duplicates, repetitions and lengths are the pair stage's business, for every rule alike.
"""

from dataclasses import dataclass

from judges import Group, Verdict


@dataclass(frozen=True)
class Pick:
    """Indices of one pair's responses in their group."""

    chosen: int
    rejected: int
    win_rates: tuple[float, float] | None = None
    """Of (chosen, rejected), where the rule knows better than the means of their rows in the win table."""


def verdict(group: Group) -> Verdict:
    """What the judge said of a judged group."""
    assert group.verdict is not None, f"{group.id} was judged by nobody: rules look at rows of a judged table"
    return group.verdict
