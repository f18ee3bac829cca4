"""How a method learns what is preferred: from the matrix itself, or from as many comparisons as it pays for."""

from typing import Protocol

import torch
from torch import Tensor


class Judge(Protocol):
    def win_rates(self, log_opponent_N: Tensor) -> Tensor:
        """P(y > opponent) of each response (N,)."""
        ...

    def pairs(self, first_N: Tensor, second_N: Tensor) -> Tensor:
        """(N, N): how often row beat column among pairs of one response of each policy; sums to 1. Takes probabilities."""
        ...


class Exact:
    """Expectations: each pair counts by its probability."""

    def __init__(self, preference_NN: Tensor) -> None:
        self._preference_NN = preference_NN

    def win_rates(self, log_opponent_N: Tensor) -> Tensor:
        return self._preference_NN @ log_opponent_N.exp()

    def pairs(self, first_N: Tensor, second_N: Tensor) -> Tensor:
        # The row's response may have been drawn first or second.
        return (first_N[:, None] * second_N + second_N[:, None] * first_N) * self._preference_NN


class Noisy:
    """Samples: `count` comparisons of each response with an opponent's, and `count` pairs, each won or lost by chance."""

    def __init__(self, preference_NN: Tensor, count: int, seed: int) -> None:
        self._preference_NN = preference_NN
        self._count = count
        self._draw = torch.Generator().manual_seed(seed)

    def win_rates(self, log_opponent_N: Tensor) -> Tensor:
        size = len(self._preference_NN)
        rivals_NK = torch.multinomial(log_opponent_N.exp().expand(size, -1), self._count, replacement=True, generator=self._draw)
        return self._won(torch.arange(size)[:, None].expand_as(rivals_NK), rivals_NK).mean(1)

    def pairs(self, first_N: Tensor, second_N: Tensor) -> Tensor:
        one_P, other_P = (torch.multinomial(each_N, self._count, replacement=True, generator=self._draw) for each_N in (first_N, second_N))
        won_P = self._won(one_P, other_P).bool()
        chosen_P, rejected_P = torch.where(won_P, one_P, other_P), torch.where(won_P, other_P, one_P)
        size = len(self._preference_NN)
        counts = torch.bincount(chosen_P * size + rejected_P, minlength=size**2)
        return (counts / self._count).reshape(size, size).to(self._preference_NN.dtype)

    def _won(self, one: Tensor, other: Tensor) -> Tensor:
        chance = self._preference_NN[one, other]
        return (torch.rand(chance.shape, generator=self._draw, dtype=chance.dtype) < chance).to(chance.dtype)
