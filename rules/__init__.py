"""Pair rules say which responses of a judged group are trained on. Each file beside this one is one rule.

A rule module is a `Rule`. `choose` gives the picks of one judged group,
and the reason if there are none (a short name such as "tie", counted as a fact). What a rule
draws depends on `seed`, the step's, and on the group's id, and on no position.
Near-duplicates, repetitions and lengths are the pair stage's business, for every rule alike.
"""

from dataclasses import dataclass
from typing import Any, Protocol, cast

from judges import Group, Verdict
from pipeline.plugin import Choice, Settings


@dataclass(frozen=True)
class Pick:
    """Indices of one pair's responses in their group."""

    chosen: int
    rejected: int
    win_rates: tuple[float, float] | None = None
    """Of (chosen, rejected), where the rule knows better than the means of their rows in the win table."""


class Rule(Protocol):
    """What a rule module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    def choose(self, config: Any, group: Group, seed: int) -> tuple[list[Pick], str | None]: ...


def of(choice: Choice) -> Rule:
    """The module of a choice, by its contract."""
    return cast(Rule, choice.module)


def verdict(group: Group) -> Verdict:
    """What the judge said of a judged group."""
    assert group.verdict is not None, f"{group.id} was judged by nobody: rules look at rows of a judged table"
    return group.verdict
