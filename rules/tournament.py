"""INPO's tournament over a judge's win table (arXiv:2407.00617, section 4.1): the overall winner against the overall loser.

Neighbours meet, winners meet winners, losers meet losers and the loser goes on; a tie is won by the first. The pair is
kept only if the winner beats the loser too. Of the K(K-1)/2 comparisons in the table it looks at 11 for K = 8; the judge
`pairwise` with `against: tournament` makes no others. Without a table the higher score wins, which is `best_vs_worst`.
"""

from judges import Group
from metrics import bracket
from metrics.win_rates import wins_certain
from pipeline.plugin import Settings
from rules import Pick, verdict

VERSION = 1


class Config(Settings):
    pass


def choose(config: Config, group: Group, seed: int) -> tuple[list[Pick], str | None]:
    """The one pair of a group, or why there is none: single, undecided, upset (the winner does not beat the loser)."""
    count = len(group.responses)
    if count < 2:
        return [], "single"
    wins = wins_certain(verdict(group).scores) if verdict(group).wins is None else verdict(group).wins
    if wins is None:
        return [], "undecided"
    played = bracket.replay(count, {(i, j): wins[i][j] for i in range(count) for j in range(i + 1, count)})
    return ([], "upset") if played.upset or played.final is None else ([Pick(*played.final)], None)
