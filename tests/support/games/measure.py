"""A method's policies in a game, step by step, and how far they are from the Nash policy."""

from itertools import islice

import torch
from torch import Tensor

from tests.support.games import solutions
from tests.support.games.judges import Exact, Judge
from tests.support.games.methods import Method
from tests.support.games.preferences import Game


def play(method: Method, game: Game, steps: int, judge: Judge | None = None) -> Tensor:
    """Probabilities (T, N) after each step; without a judge, expectations are exact."""
    asked = Exact(game.preference_NN) if judge is None else judge
    return torch.stack([log_policy_N.exp() for log_policy_N in islice(method(asked, game.log_start_N), steps)])


def averages(policies_TN: Tensor) -> Tensor:
    """The mean of the policies up to each step, of probabilities."""
    return policies_TN.cumsum(0) / torch.arange(1, len(policies_TN) + 1)[:, None]


def gaps(policies_TN: Tensor, game: Game, tau: float = 0.0) -> list[float]:
    """The duality gap of each policy; of the regularised game if tau is above 0."""
    if tau == 0:
        return [solutions.gap(game.preference_NN, policy_N) for policy_N in policies_TN]
    return [solutions.regularised_gap(game.preference_NN, policy_N, game.log_start_N, tau) for policy_N in policies_TN]


def distances(policies_TN: Tensor, game: Game, tau: float) -> list[float]:
    """KL(regularised Nash policy || policy) of each policy."""
    nash_N = solutions.regularised_nash(game.preference_NN, game.log_start_N, tau).exp()
    return [float(solutions.kl(nash_N, policy_N)) for policy_N in policies_TN]
