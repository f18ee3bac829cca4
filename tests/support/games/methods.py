"""The self-play methods: what each asks of the judge, which objective it trains with, and what becomes of the old policy.

Each function returns a Method: given a judge and the policy of the start, it yields the policy after every step, forever.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from objectives import dpo
from stages.merge import arithmetic
from tests.support.games.judges import Judge
from tests.support.games.learner import Data, Objective, gradient, minimise, objective, softmax, unnormalised

Method = Callable[[Judge, Tensor], Iterator[Tensor]]


def _fit(of: Objective, judge: Judge, log_last_N: Tensor) -> Tensor:
    """SPPO's round: fits pairs and win rates of the last policy, which is also the reference."""
    last_N = log_last_N.exp()
    data = Data(judge.pairs(last_N, last_N), reference_N=log_last_N, win_rate_N=judge.win_rates(log_last_N))
    return softmax(minimise(of, log_last_N, data))


def sppo(eta: float) -> Method:
    """Multiplicative weights, up to the normaliser that the loss replaces by a constant."""
    of = objective("sppo", beta=1 / eta)

    def play(judge: Judge, log_policy_N: Tensor) -> Iterator[Tensor]:
        while True:
            log_policy_N = _fit(of, judge, log_policy_N)
            yield log_policy_N

    return play


def iterated_dpo(eta: float) -> Method:
    """DPO on the last policy's own pairs; for weak preferences its step is that of SPPO with the same eta."""
    of = objective("dpo", beta=4 / eta)

    def play(judge: Judge, log_policy_N: Tensor) -> Iterator[Tensor]:
        while True:
            pairs_NN = judge.pairs(log_policy_N.exp(), log_policy_N.exp())
            log_policy_N = _fit_differences(of, log_policy_N, Data(pairs_NN, reference_N=log_policy_N))
            yield log_policy_N

    return play


def _fit_differences(of: Objective, log_last_N: Tensor, data: Data) -> Tensor:
    """The policy that minimises a loss of differences of log-probabilities, however small some of them are."""
    # Where the logistic loss is flat Newton's method leaps; there beta differences of 1 are a safe step.
    reach = 1 / of.config.beta if of.module is dpo else math.inf
    return softmax(minimise(of, log_last_N, data, policy=unnormalised, reach=reach))


def offline_dpo(eta: float) -> Method:
    """DPO round after round on the start policy's pairs."""
    of = objective("dpo", beta=4 / eta)

    def play(judge: Judge, log_policy_N: Tensor) -> Iterator[Tensor]:
        pairs_NN = judge.pairs(log_policy_N.exp(), log_policy_N.exp())
        while True:
            log_policy_N = _fit_differences(of, log_policy_N, Data(pairs_NN, reference_N=log_policy_N))
            yield log_policy_N

    return play


def spo(eta: float) -> Method:
    """Policy gradient on win rates against the policy itself: GRPO's objective, fresh responses and no KL.

    The step is a natural one: the plain gradient over each response's probability, which is multiplicative weights.
    """
    of = objective("grpo", beta=0, on_policy=True, scale="none")

    def play(judge: Judge, theta_N: Tensor) -> Iterator[Tensor]:
        while True:
            policy_N = softmax(theta_N).exp()
            data = Data(rows_N=policy_N, win_rate_N=judge.win_rates(policy_N.log()))
            theta_N = softmax(theta_N - eta * gradient(of, theta_N, data) / policy_N)
            yield theta_N

    return play


def accelerated_sppo(eta: float, alpha: float) -> Method:
    """SPPO, and after each round a further alpha of the way from the last fitted policy to the new one, in log-space."""
    of = objective("sppo", beta=1 / eta)

    def play(judge: Judge, log_policy_N: Tensor) -> Iterator[Tensor]:
        fitted_N = log_policy_N
        while True:
            earlier_N, fitted_N = fitted_N, _fit(of, judge, log_policy_N)
            log_policy_N = softmax(arithmetic.extrapolate(fitted_N, earlier_N, alpha))
            yield log_policy_N

    return play


def inpo(tau: float, eta: float | None) -> Method:
    """Online mirror descent in the game regularised by tau; 1/eta is the step. None: eta = tau (t + 2) / 2 in round t = 0, 1, ..."""

    def play(judge: Judge, log_start_N: Tensor) -> Iterator[Tensor]:
        log_policy_N = log_start_N
        for t in itertools.count():
            of = objective("inpo", tau=tau, eta=tau * (t + 2) / 2 if eta is None else eta)
            pairs_NN = judge.pairs(log_policy_N.exp(), log_policy_N.exp())
            data = Data(pairs_NN, reference_N=log_start_N, history_HN=log_policy_N[None])
            log_policy_N = _fit_differences(of, log_policy_N, data)
            yield log_policy_N

    return play


def mnpo(tau: float, eta: float, history: int) -> Method:
    """INPO against the geometric mean of the last policies instead of the last one."""
    of = objective("mnpo", ratio=tau / eta, eta=eta, max_history=history)

    def play(judge: Judge, log_start_N: Tensor) -> Iterator[Tensor]:
        past = [log_start_N]
        while True:
            pairs_NN = judge.pairs(past[0].exp(), past[0].exp())
            data = Data(pairs_NN, reference_N=log_start_N, history_HN=torch.stack(past))
            past = [_fit_differences(of, past[0], data), *past][:history]
            yield past[0]

    return play


def _stepping(step: Callable[[Judge, Tensor, Tensor], Tensor]) -> Method:
    """One gradient step after another on the logits, which begin as the start policy's; that stays the reference."""

    def play(judge: Judge, log_start_N: Tensor) -> Iterator[Tensor]:
        theta_N = log_start_N
        while True:
            theta_N = step(judge, theta_N, log_start_N)
            yield softmax(theta_N)

    return play


def egpo(tau: float, eta: float) -> Method:
    """Extragradient: a half step against the policy itself, and the step, from where it stood, against the half step's result."""

    def step(judge: Judge, theta_N: Tensor, log_start_N: Tensor) -> Tensor:
        half_N = regression_step(tau, eta, judge, theta_N, log_start_N, softmax(theta_N))
        return regression_step(tau, eta, judge, theta_N, log_start_N, softmax(half_N))

    return _stepping(step)


def online_ipo(tau: float, eta: float) -> Method:
    """Online IPO 1: EGPO's half step alone, which is online mirror descent."""
    return _stepping(lambda judge, theta_N, log_start_N: regression_step(tau, eta, judge, theta_N, log_start_N, softmax(theta_N)))


def nash_md(tau: float, eta: float | None) -> Method:
    """The same against a geometric mixture, eta tau of the reference. None: eta = 2 / (tau (t + 2)) in step t = 0, 1, ..."""

    def play(judge: Judge, log_start_N: Tensor) -> Iterator[Tensor]:
        theta_N = log_start_N
        for t in itertools.count():
            now = 2 / (tau * (t + 2)) if eta is None else eta
            opponent_N = mixed(softmax(theta_N), log_start_N, now * tau)
            theta_N = regression_step(tau, now, judge, theta_N, log_start_N, opponent_N)
            yield softmax(theta_N)

    return play


def mixed(log_policy_N: Tensor, log_reference_N: Tensor, share: float) -> Tensor:
    """The geometric mixture policy^(1 - share) reference^share."""
    return softmax((1 - share) * log_policy_N + share * log_reference_N)


def regression_step(tau: float, eta: float, judge: Judge, theta_N: Tensor, log_reference_N: Tensor, log_opponent_N: Tensor) -> Tensor:
    """One gradient step of EGPO's loss over uniform pairs; its learning rate is such that eta is the mirror descent's."""
    count = len(theta_N)
    uniform_NN = torch.full((count, count), 1 / count**2, dtype=theta_N.dtype)
    data = Data(uniform_NN, reference_N=log_reference_N, win_rate_N=judge.win_rates(log_opponent_N))
    return theta_N - eta * tau * count / 4 * gradient(objective("egpo", beta=tau, length_average=False), theta_N, data)


def online_ipo_2(tau: float, learning_rate: float) -> Method:
    """Online IPO 2: gradient steps of IPO on pairs of the policy itself, labelled by the judge."""
    return _stepping(lambda judge, theta_N, log_start_N: ipo_step(tau, learning_rate, judge, theta_N, log_start_N))


def ipo_step(tau: float, learning_rate: float, judge: Judge, theta_N: Tensor, log_reference_N: Tensor) -> Tensor:
    return _own_pairs_step(objective("ipo", beta=tau, length_average=False), learning_rate, judge, theta_N, log_reference_N)


def dpo_steps(tau: float, learning_rate: float) -> Method:
    """Gradient steps of DPO on the same pairs: it settles where Bradley-Terry fits its own pairs."""
    of = objective("dpo", beta=4 * tau)
    return _stepping(lambda judge, theta_N, log_start_N: _own_pairs_step(of, learning_rate, judge, theta_N, log_start_N))


def _own_pairs_step(of: Objective, learning_rate: float, judge: Judge, theta_N: Tensor, log_reference_N: Tensor) -> Tensor:
    policy_N = softmax(theta_N).exp()
    data = Data(judge.pairs(policy_N, policy_N), reference_N=log_reference_N)
    return theta_N - learning_rate * gradient(of, theta_N, data)


def nash_md_pg(tau: float, learning_rate: float, mixture: float) -> Method:
    """Nash-MD's policy gradient: the policy's own responses against the mixture's, steps of the plain gradient."""

    def step(judge: Judge, theta_N: Tensor, log_start_N: Tensor) -> Tensor:
        opponent_N = mixed(softmax(theta_N), log_start_N, mixture)
        return nash_md_pg_step(tau, learning_rate, judge, theta_N, log_start_N, opponent_N)

    return _stepping(step)


def nash_md_pg_step(
    tau: float, learning_rate: float, judge: Judge, theta_N: Tensor, log_reference_N: Tensor, log_opponent_N: Tensor
) -> Tensor:
    rates_N = judge.win_rates(log_opponent_N)
    data = Data(rows_N=softmax(theta_N).exp(), reference_N=log_reference_N, win_rate_N=rates_N)
    return theta_N - learning_rate * gradient(objective("nash_md", beta=tau), theta_N, data)


def online_dpo(tau: float) -> Method:
    """DPO with a fixed reference on the last policy's pairs: for weak preferences it is the best response to the last policy."""
    of = objective("dpo", beta=4 * tau)

    def play(judge: Judge, log_start_N: Tensor) -> Iterator[Tensor]:
        log_policy_N = log_start_N
        while True:
            pairs_NN = judge.pairs(log_policy_N.exp(), log_policy_N.exp())
            log_policy_N = _fit_differences(of, log_policy_N, Data(pairs_NN, reference_N=log_start_N))
            yield log_policy_N

    return play
