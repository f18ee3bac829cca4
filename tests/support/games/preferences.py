"""The games: matrices of preference probabilities, transitive, cyclic and random."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Game:
    """Two players give one response each to the same prompt, and a judge prefers one of them."""

    name: str
    preference_NN: Tensor
    """P(row beats column); P[i, j] + P[j, i] = 1."""
    log_start_N: Tensor
    """The policy of the start, which is also the reference of the regularised game."""


def transitive() -> Game:
    """Bradley-Terry: five responses with scores, so the best beats every other."""
    scores_N = torch.tensor([0.0, 0.5, 1.0, 1.6, 2.4], dtype=torch.float64)
    return _game("transitive", torch.sigmoid(scores_N[:, None] - scores_N), [0.6, 0.4, 0.2, 0.0, -0.4])


def rock_paper_scissors() -> Game:
    """A cycle with unequal stakes: rock 0.95 over scissors, scissors 0.8 over paper, paper 0.65 over rock.

    Its Nash policy is (1/3, 1/2, 1/6), in the order of their names.
    """
    return _game("cyclic", torch.tensor([[0.5, 0.35, 0.95], [0.65, 0.5, 0.2], [0.05, 0.8, 0.5]], dtype=torch.float64), [0.8, 0.0, -0.8])


def random_skew(seed: int = 0, count: int = 8) -> Game:
    """No order at all: each pair's log-odds are drawn for themselves."""
    draw = torch.Generator().manual_seed(seed)
    log_odds_NN = torch.randn(count, count, generator=draw, dtype=torch.float64) * 1.5
    start_N = torch.randn(count, generator=draw, dtype=torch.float64) * 0.5
    return _game("random", torch.sigmoid(log_odds_NN - log_odds_NN.T), start_N.tolist())


def _game(name: str, preference_NN: Tensor, start: list[float]) -> Game:
    return Game(name, preference_NN, torch.log_softmax(torch.tensor(start, dtype=torch.float64), 0))
