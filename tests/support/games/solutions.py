"""What the policies are measured against, found without any objective: Nash policies and duality gaps.

The regularised game pays player one P(y1 beats y2) - tau KL(pi1 || ref) + tau KL(pi2 || ref). Gaps are sums over both
players of what a best response would gain: 0 only at a Nash policy.
"""

from itertools import combinations

import torch
from torch import Tensor


def nash(preference_NN: Tensor) -> Tensor:
    """Probabilities (N,) of a Nash policy, exact: the first set of responses whose equal-payoff mixture nothing beats.

    A symmetric game has one over an odd number of responses; sets are tried from small to large.
    """
    payoff_NN = preference_NN - 0.5
    count = len(payoff_NN)
    for size in range(1, count + 1, 2):
        for support in combinations(range(count), size):
            at = list(support)
            # The mixture earns 0 with each of its responses, and sums to one.
            rows = torch.cat([payoff_NN[at][:, at], torch.ones(1, size, dtype=payoff_NN.dtype)])
            wanted = torch.zeros(size + 1, dtype=payoff_NN.dtype)
            wanted[-1] = 1
            mixture_S = torch.linalg.lstsq(rows, wanted[:, None], driver="gelsd").solution[:, 0]
            policy_N = torch.zeros(count, dtype=payoff_NN.dtype)
            policy_N[at] = mixture_S
            if mixture_S.min() > -1e-9 and (payoff_NN @ policy_N).max() < 1e-9 and abs(policy_N.sum() - 1) < 1e-9:
                return policy_N.clamp(min=0) / policy_N.clamp(min=0).sum()
    raise AssertionError("every symmetric constant-sum game has a symmetric Nash policy")


def regularised_nash(preference_NN: Tensor, log_ref_N: Tensor, tau: float) -> Tensor:
    """log of the one policy with pi proportional to ref exp(P(y > pi) / tau), by damped iterations to 1e-13."""
    log_policy_N = log_ref_N
    for _ in range(1_000_000):
        best_N = torch.log_softmax(log_ref_N + preference_NN @ log_policy_N.exp() / tau, 0)
        if (best_N - log_policy_N).abs().max() < 1e-13:
            return log_policy_N
        # Small enough a step contracts: the game's own turning is of the size of tau/4 at most before the damping.
        log_policy_N = torch.log_softmax(log_policy_N + min(0.5, 4 * tau**2) * (best_N - log_policy_N), 0)
    raise AssertionError(f"no fixed point at tau {tau}")


def gap(preference_NN: Tensor, policy_N: Tensor) -> float:
    """max over y of P(y > pi), less min over y of P(pi > y): the exact duality gap of probabilities (N,)."""
    return float((preference_NN @ policy_N).max() - (policy_N @ preference_NN).min())


def regularised_gap(preference_NN: Tensor, policy_N: Tensor, log_ref_N: Tensor, tau: float) -> float:
    """The same in the regularised game, where a best response is ref exp(payoff / tau), normalised."""
    own = tau * kl(policy_N, log_ref_N.exp())
    first = tau * torch.logsumexp(log_ref_N + preference_NN @ policy_N / tau, 0) + own
    second = -tau * torch.logsumexp(log_ref_N - policy_N @ preference_NN / tau, 0) - own
    return float(first - second)


def kl(policy_N: Tensor, other_N: Tensor) -> Tensor:
    """KL(policy || other) of probabilities, in nats; 0 log 0 = 0."""
    return torch.where(policy_N > 0, policy_N * (policy_N.clamp(min=1e-300).log() - other_N.clamp(min=1e-300).log()), 0.0).sum()
