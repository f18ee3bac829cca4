"""Win rates of two published head-to-head protocols, from their verdicts.

Sources: Arena-Hard (arXiv:2406.11939, `show_result.py`: a decisive verdict counts several times) and MT-Bench (arXiv:2306.05685,
`show_result.py`: a win must hold in both orders). Entries of one prompt are not independent: take intervals over prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_SCORES = {">>": 1.0, ">": 1.0, "=": 0.5, "<": 0.0, "<<": 0.0}


@dataclass(frozen=True)
class MtBench:
    win: int
    loss: int
    tie: int

    @property
    def win_rate(self) -> float | None:
        """Wins of all games; None of no games."""
        count = self.win + self.loss + self.tie
        return self.win / count if count else None

    @property
    def win_rate_adjusted(self) -> float | None:
        """Wins and half the ties of all games; None of no games."""
        count = self.win + self.loss + self.tie
        return (self.win + self.tie / 2) / count if count else None


def arena_hard_entries(first: str, second: str, weight: int = 3) -> list[float]:
    """The entries of one prompt for the model: `first` is a verdict such as "A>>B" with the baseline as A, `second` with the model as A."""
    return [*_entries(first, model="B", weight=weight), *_entries(second, model="A", weight=weight)]


def _entries(verdict: str, model: str, weight: int) -> list[float]:
    for sign in (">>", "<<", ">", "<", "="):
        if sign in verdict:
            better, _, worse = verdict.partition(sign)
            if {better, worse} != {"A", "B"}:
                break
            score = _SCORES[sign] if better == model else 1 - _SCORES[sign]
            return [score] * (weight if sign in (">>", "<<") else 1)
    raise ValueError(f"{verdict!r} is no verdict; one reads A>>B, A>B, A=B, B>A or B>>A")


def arena_hard(games: Sequence[tuple[str, str]], weight: int = 3) -> float | None:
    """The model's win rate over all entries; None of no games."""
    entries = [entry for first, second in games for entry in arena_hard_entries(first, second, weight)]
    return sum(entries) / len(entries) if entries else None


def mt_bench(games: Sequence[tuple[str, str]], model: str = "model_1") -> MtBench:
    """Wins, losses and ties of `model`, from the winner (or "tie") of each prompt in both orders; they must agree, or it is a tie."""
    same = [first if first == second else "tie" for first, second in games]
    win, tie = sum(each == model for each in same), sum(each == "tie" for each in same)
    return MtBench(win=win, loss=len(same) - win - tie, tie=tie)
