"""Golden trajectories and closed forms of whole policies, played with the real objectives.

A vector's policies are logs of probabilities or logits over the N responses of one prompt; P is the judge's matrix.
"""

from collections.abc import Callable
from typing import Any

from tests.golden.compare import Vector, same


def check_trajectory(vector: Vector, dtype: str) -> None:
    """The policy after each step of the vector's method."""
    import torch

    from tests.support.games.judges import Exact

    given, params = vector["inputs"], vector["params"]
    wide = getattr(torch, dtype)
    judge = Exact(torch.tensor(given["P"], dtype=wide))
    theta_N = torch.tensor(given["theta0"], dtype=wide)
    log_reference_N = torch.log_softmax(torch.tensor(given["theta_ref"], dtype=wide), 0)
    step = STEPS[vector["method"]]
    expected = vector["expected"]["log_policy_after_each_step"]
    found = []
    for _ in expected:
        theta_N = step(judge, theta_N, log_reference_N, params)
        found.append(torch.log_softmax(theta_N, 0).tolist())
    same("policies", found, expected, dtype, 1.0)


def _regression(judge: Any, theta_N: Any, log_reference_N: Any, params: dict[str, float], log_opponent_N: Any) -> Any:
    from tests.support.games import methods

    # The mirror descent's eta that makes the learning rate the vector's.
    eta = 4 * params["sgd_lr"] / (params["beta"] * len(theta_N))
    return methods.regression_step(params["beta"], eta, judge, theta_N, log_reference_N, log_opponent_N)


def online_ipo(judge: Any, theta_N: Any, log_reference_N: Any, params: dict[str, float]) -> Any:
    return _regression(judge, theta_N, log_reference_N, params, theta_N.log_softmax(0))


def egpo(judge: Any, theta_N: Any, log_reference_N: Any, params: dict[str, float]) -> Any:
    half_N = online_ipo(judge, theta_N, log_reference_N, params)
    return _regression(judge, theta_N, log_reference_N, params, half_N.log_softmax(0))


def nash_md(judge: Any, theta_N: Any, log_reference_N: Any, params: dict[str, float]) -> Any:
    return _regression(judge, theta_N, log_reference_N, params, _mixture(theta_N, log_reference_N, params))


def online_ipo_2(judge: Any, theta_N: Any, log_reference_N: Any, params: dict[str, float]) -> Any:
    from tests.support.games import methods

    return methods.ipo_step(params["beta"], params["sgd_lr"], judge, theta_N, log_reference_N)


def nash_md_pg(judge: Any, theta_N: Any, log_reference_N: Any, params: dict[str, float]) -> Any:
    from tests.support.games import methods

    opponent_N = _mixture(theta_N, log_reference_N, params)
    return methods.nash_md_pg_step(params["beta"], params["sgd_lr"], judge, theta_N, log_reference_N, opponent_N)


def _mixture(theta_N: Any, log_reference_N: Any, params: dict[str, float]) -> Any:
    from tests.support.games import methods

    rate = params.get("true_lr", 2 * params["sgd_lr"] / (params["beta"] * len(theta_N)))
    return methods.mixed(theta_N.log_softmax(0), log_reference_N, rate * params["beta"])


STEPS = {
    "EGPO": egpo,
    "Online-IPO v1 (OMD)": online_ipo,
    "Online-IPO v2": online_ipo_2,
    "Nash-MD": nash_md,
    "Nash-MD-PG": nash_md_pg,
}


def check_sppo_update(vector: Vector, dtype: str) -> None:
    """What minimises SPPO's expected loss over log-weights that need not be normalised, and is then normalised."""
    import torch

    from tests.support.games.learner import minimise, objective, unnormalised

    judge, log_last_N = _last(vector, dtype)
    eta, expected = vector["params"]["eta"], vector["expected"]
    data = _own_pairs(judge, log_last_N, reference_N=log_last_N)
    free_N = minimise(objective("sppo", beta=1 / eta), log_last_N, data, policy=unnormalised)
    assert data.win_rate_N is not None
    same("win rates", data.win_rate_N.tolist(), expected["win_rate_vs_pi_t"], dtype, 1.0)
    same("policy", torch.log_softmax(free_N, 0).tolist(), expected["log_pi_next"], dtype, 1.0)
    # The loss puts a constant in the place of log Z: what its minimum lacks of eta P(y > pi_t).
    constant_N = eta * data.win_rate_N - (free_N - log_last_N)
    if "log_partition" in expected:
        same("log Z", float(torch.logsumexp(free_N, 0) + constant_N.mean()), expected["log_partition"], dtype, 1.0)
    if "log_partition_approximation_used_by_the_loss" in expected:
        constant = expected["log_partition_approximation_used_by_the_loss"]
        same("its constant", constant_N.tolist(), [constant] * len(constant_N), dtype, eta)


def check_inpo_update(vector: Vector, dtype: str) -> None:
    """What minimises INPO's expected loss on pairs of the last policy."""
    import torch

    from tests.support.games.learner import minimise, objective, softmax

    judge, log_last_N = _last(vector, dtype)
    params, expected = vector["params"], vector["expected"]
    log_reference_N = torch.tensor(vector["inputs"]["log_pi_ref"], dtype=log_last_N.dtype)
    data = _own_pairs(judge, log_last_N, reference_N=log_reference_N, history_HN=log_last_N[None])
    policy_N = softmax(minimise(objective("inpo", eta=params["eta"], tau=params["tau"]), log_last_N, data))
    assert data.win_rate_N is not None
    same("win rates", data.win_rate_N.tolist(), expected["win_rate_vs_pi_t"], dtype, 1.0)
    same("policy", policy_N.tolist(), expected["log_pi_next"], dtype, 1.0)


def _last(vector: Vector, dtype: str) -> tuple[Any, Any]:
    import torch

    from tests.support.games.judges import Exact

    wide = getattr(torch, dtype)
    return Exact(torch.tensor(vector["inputs"]["P"], dtype=wide)), torch.tensor(vector["inputs"]["log_pi_t"], dtype=wide)


def _own_pairs(judge: Any, log_last_N: Any, **more: Any) -> Any:
    from tests.support.games.learner import Data

    last_N = log_last_N.exp()
    return Data(judge.pairs(last_N, last_N), win_rate_N=judge.win_rates(log_last_N), **more)


def check_extrapolated_weights(vector: Vector, dtype: str) -> None:
    found = _extrapolated(vector, dtype, "theta_hat_next", "theta_hat_prev")
    same("weights", found.tolist(), vector["expected"]["theta_next"], dtype, 1.0)


def check_extrapolated_policy(vector: Vector, dtype: str) -> None:
    found = _extrapolated(vector, dtype, "log_pihat_next", "log_pihat_prev")
    same("policy", found.log_softmax(0).tolist(), vector["expected"]["log_pi_next"], dtype, 1.0)


def _extrapolated(vector: Vector, dtype: str, new: str, previous: str) -> Any:
    import torch

    from stages.merge import arithmetic

    both = (torch.tensor(vector["inputs"][name], dtype=getattr(torch, dtype)) for name in (new, previous))
    return arithmetic.extrapolate(*both, vector["params"]["alpha"])


CHECKS: dict[tuple[str, str], Callable[[Vector, str], None]] = {
    **{(method, "exact tabular, 3 steps"): check_trajectory for method in STEPS},
    ("SPPO", "closed-form multiplicative-weights oracle update (tabular)"): check_sppo_update,
    ("INPO", "closed-form OMD oracle update (tabular)"): check_inpo_update,
    ("APO", "parameter-space extrapolation"): check_extrapolated_weights,
    ("APO", "policy-space extrapolation (tabular)"): check_extrapolated_policy,
}
