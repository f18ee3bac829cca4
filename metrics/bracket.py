"""The tournament by which INPO picks a pair with O(K) comparisons (arXiv:2407.00617, section 4.1).

Neighbours meet; winners then meet winners, and losers meet losers of whom the loser goes on; at last the overall winner
meets the overall loser, and there is a pair only if it really wins. A tie is won by the first. Whoever is left over where
the number is odd goes on without a comparison, in the first level in both brackets. K = 8 takes 4 + 3 + 3 + 1 = 11.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Game = tuple[int, int]
"""Two places that are compared, the smaller first."""


@dataclass(frozen=True)
class Bracket:
    """How far a tournament has come with the comparisons that are known."""

    open: tuple[Game, ...]
    """Comparisons to be made next, all at once; none if it is over."""
    played: tuple[Game, ...]
    """Comparisons so far, each once, in order."""
    final: tuple[int, int] | None = None
    """The overall winner and the overall loser, once it is over."""
    upset: bool = False
    """The winner does not beat the loser, or is the same one: comparisons contradict each other, or tie."""


def replay(count: int, wins: Mapping[Game, float]) -> Bracket:
    """The tournament of places 0 to `count` - 1 (two at least), as far as P(the first beats the second) is known.

    A final between two that have met before takes no new comparison.
    """
    up = down = list(range(count))
    played: dict[Game, None] = {}
    while len(up) > 1 or len(down) > 1:
        games = dict.fromkeys([*_neighbours(up), *_neighbours(down)])
        if missing := tuple(game for game in games if game not in wins):
            return Bracket(missing, tuple(played))
        played.update(games)
        up = [*(winner(game, wins) for game in _neighbours(up)), *_left_over(up)]
        down = [*(loser(game, wins) for game in _neighbours(down)), *_left_over(down)]
    best, worst = up[0], down[0]
    if best == worst:
        return Bracket((), tuple(played), (best, worst), upset=True)
    final = (min(best, worst), max(best, worst))
    if final not in wins:
        return Bracket((final,), tuple(played))
    played[final] = None
    lead = wins[final] - 0.5
    return Bracket((), tuple(played), (best, worst), upset=not (lead if best < worst else -lead) > 0)


def winner(game: Game, wins: Mapping[Game, float]) -> int:
    """Who goes on among the winners: the first, unless the second is better."""
    return game[0] if wins[game] >= 0.5 else game[1]


def loser(game: Game, wins: Mapping[Game, float]) -> int:
    return game[1] if wins[game] >= 0.5 else game[0]


def _neighbours(places: list[int]) -> list[Game]:
    return list(zip(places[::2], places[1::2], strict=False))


def _left_over(places: list[int]) -> list[int]:
    return places[-1:] if len(places) % 2 else []
