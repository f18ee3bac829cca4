"""Pair rules say which responses of a judged group are trained on. Each file beside this one is one rule.

A rule module has `VERSION`, `Config` and

    choose(config, group: Judged) -> tuple[list[Pick], str | None]

the picks of one group, and the reason if there are none (a short name such as "tie", counted as a fact).
Near-duplicates, repetitions and lengths are the pair stage's business, for every rule alike.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Judged:
    """One row of the `judged` table, as far as a rule may look."""

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    sources: tuple[str, ...]
    scores: tuple[float | None, ...]
    wins: tuple[tuple[float, ...], ...] | None
    id: str = ""
    """Of the prompt."""
    seed: int = 0
    """The step's: what a rule draws depends on this and `id`, and on no position."""


@dataclass(frozen=True)
class Pick:
    """Indices of one pair's responses in their group."""

    chosen: int
    rejected: int
    win_rates: tuple[float, float] | None = None
    """Of (chosen, rejected), where the rule knows better than the means of their rows in the win table."""
