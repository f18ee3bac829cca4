"""What theory promises of each self-play method, measured in games that are small enough to solve."""

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.support.games import methods, preferences, solutions
from tests.support.games.judges import Exact, Noisy
from tests.support.games.learner import Data, Objective, gradient, minimise, objective, softmax, unnormalised
from tests.support.games.measure import averages, distances, gaps, play
from tests.support.games.methods import Method
from tests.support.games.preferences import Game

pytestmark = pytest.mark.usefixtures("one_thread")
TAU = 0.1
GAMES = {game.name: game for game in (preferences.transitive(), preferences.rock_paper_scissors(), preferences.random_skew())}
every_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
without_order = pytest.mark.parametrize("game", [GAMES["cyclic"], GAMES["random"]], ids=["cyclic", "random"])


# The yardsticks.


@every_game
def test_the_games_are_constant_sum_and_solved_exactly(game: Game) -> None:
    P_NN = game.preference_NN
    assert torch.allclose(P_NN + P_NN.T, torch.ones_like(P_NN), atol=1e-15)
    nash_N = solutions.nash(P_NN)
    assert nash_N.min() >= 0 and solutions.gap(P_NN, nash_N) < 1e-12
    assert solutions.gap(P_NN, game.log_start_N.exp()) > 0.1, "the start is no solution already"


def test_known_nash_policies() -> None:
    assert solutions.nash(GAMES["transitive"].preference_NN).tolist() == [0, 0, 0, 0, 1]
    assert solutions.nash(GAMES["cyclic"].preference_NN).tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 6], abs=1e-12)


@every_game
def test_the_regularised_gap_is_what_best_responses_gain(game: Game) -> None:
    """No policy gains more than the closed form says, and gradient ascent gains just that."""
    P_NN, ref_N = game.preference_NN, game.log_start_N

    def value(first_N: Tensor, second_N: Tensor) -> Tensor:
        return first_N @ P_NN @ second_N - TAU * solutions.kl(first_N, ref_N.exp()) + TAU * solutions.kl(second_N, ref_N.exp())

    policy_N = torch.softmax(torch.arange(len(ref_N), dtype=torch.float64) * 0.3, 0)
    theta_N = ref_N.clone()
    for _ in range(300):  # natural gradients
        leaf_N = theta_N.requires_grad_()
        (slope_N,) = torch.autograd.grad(value(leaf_N.softmax(0), policy_N), leaf_N)
        theta_N = (leaf_N + slope_N / leaf_N.softmax(0)).detach()
    best_N = theta_N.softmax(0)
    gain = float(value(best_N, policy_N) - value(policy_N, best_N))
    assert solutions.regularised_gap(P_NN, policy_N, ref_N, TAU) == pytest.approx(gain, abs=1e-7)
    nash_N = solutions.regularised_nash(P_NN, ref_N, TAU).exp()
    assert abs(solutions.regularised_gap(P_NN, nash_N, ref_N, TAU)) < 1e-12


def test_a_noisy_judge_is_right_on_average() -> None:
    game = GAMES["random"]
    exact, noisy = Exact(game.preference_NN), Noisy(game.preference_NN, 400_000, seed=1)
    start_N = game.log_start_N.exp()
    assert torch.allclose(noisy.win_rates(game.log_start_N), exact.win_rates(game.log_start_N), atol=4e-3)
    assert torch.allclose(noisy.pairs(start_N, start_N), exact.pairs(start_N, start_N), atol=1e-3)
    assert float(exact.pairs(start_N, solutions.nash(game.preference_NN)).sum()) == pytest.approx(1)


# One step of each method, against its closed form.


def _own(game: Game, last_N: Tensor, **more: Tensor) -> Data:
    judge = Exact(game.preference_NN)
    return Data(judge.pairs(last_N.exp(), last_N.exp()), win_rate_N=judge.win_rates(last_N), **more)


def _last(game: Game) -> Tensor:
    return softmax(torch.linspace(-0.7, 0.4, len(game.log_start_N), dtype=torch.float64))


@every_game
def test_sppo_is_multiplicative_weights(game: Game) -> None:
    """Exactly so over weights that need not be normalised; a softmax policy cannot make up for the constant that stands for
    log Z, and misses by the third power of eta."""
    last_N = _last(game)
    data = _own(game, last_N, reference_N=last_N)
    assert data.win_rate_N is not None
    missed = []
    for eta in (0.4, 0.2, 0.1):
        closed_N = softmax(last_N + eta * data.win_rate_N)
        for form in ("soft", "single"):
            of = objective("sppo", beta=1 / eta, form=form)
            labelled = data if form == "soft" else _labelled(game, last_N)
            free_N = minimise(of, last_N, labelled, policy=unnormalised)
            assert torch.allclose(softmax(free_N), closed_N, atol=1e-10)
        missed.append(float((softmax(minimise(objective("sppo", beta=1 / eta), last_N, data)) - closed_N).abs().max()))
    assert 6.5 < missed[0] / missed[1] < 9.5 and 6.5 < missed[1] / missed[2] < 9.5, missed


def _labelled(game: Game, last_N: Tensor) -> Data:
    """Every pair in both orders alike, with the judge's probability as its label."""
    last_N = last_N.exp()
    return Data(last_N[:, None] * last_N, reference_N=last_N.log(), label_NN=game.preference_NN)


@every_game
def test_inpo_and_mnpo_are_mirror_descent(game: Game) -> None:
    last_N, earlier_N, ref_N = _last(game), softmax(_last(game).flip(0)), game.log_start_N
    eta, ratio = 0.5, 0.3
    one = _own(game, last_N, reference_N=ref_N, history_HN=last_N[None])
    two = _own(game, last_N, reference_N=ref_N, history_HN=torch.stack([last_N, earlier_N]))
    assert one.win_rate_N is not None
    closed_N = softmax(one.win_rate_N / eta + ratio * ref_N + (1 - ratio) * last_N)
    assert torch.allclose(_fitted("inpo", last_N, one, eta=eta, tau=ratio * eta), closed_N, atol=1e-10)
    assert torch.allclose(_fitted("mnpo", last_N, one, eta=eta, ratio=ratio), closed_N, atol=1e-10)
    against_N = softmax(one.win_rate_N / eta + ratio * ref_N + (1 - ratio) * (0.25 * last_N + 0.75 * earlier_N))
    mixed_N = _fitted("mnpo", last_N, two, eta=eta, ratio=ratio, history_weights=(0.25, 0.75))
    assert torch.allclose(mixed_N, against_N, atol=1e-10)


@every_game
def test_inpo_at_tau_eta_is_ipo(game: Game) -> None:
    last_N = _last(game)
    data = _own(game, last_N, reference_N=game.log_start_N, history_HN=last_N[None])
    ipo_N = _fitted("ipo", last_N, data, beta=0.4, length_average=False)
    assert torch.allclose(_fitted("inpo", last_N, data, eta=0.4, tau=0.4), ipo_N, atol=1e-12)


def _fitted(kind: str, start_N: Tensor, data: Data, **settings: object) -> Tensor:
    return softmax(minimise(objective(kind, **settings), start_N, data))


@every_game
def test_a_step_of_egpo_is_its_closed_form(game: Game) -> None:
    theta_N, ref_N, judge, eta = _last(game), game.log_start_N, Exact(game.preference_NN), 0.8
    half_N = softmax((1 - eta * TAU) * theta_N + eta * TAU * ref_N + eta * judge.win_rates(theta_N))
    full_N = softmax((1 - eta * TAU) * theta_N + eta * TAU * ref_N + eta * judge.win_rates(half_N))
    found_half_N = methods.regression_step(TAU, eta, judge, theta_N, ref_N, theta_N)
    assert torch.allclose(softmax(found_half_N), half_N, atol=1e-14)
    found_N = methods.regression_step(TAU, eta, judge, theta_N, ref_N, softmax(found_half_N))
    assert torch.allclose(softmax(found_N), full_N, atol=1e-14)


@every_game
def test_policy_gradients_are_those_of_the_expected_reward(game: Game) -> None:
    """SPO and Nash-MD-PG move the logits along pi (A - E A), A the win rate less the regularisation."""
    theta_N, ref_N = _last(game), game.log_start_N
    rates_N = Exact(game.preference_NN).win_rates(ref_N)
    data = Data(rows_N=theta_N.exp(), reference_N=ref_N, win_rate_N=rates_N)

    def expected(of: Objective, reward_N: Tensor) -> None:
        along_N = theta_N.exp() * (reward_N - theta_N.exp() @ reward_N)
        assert torch.allclose(gradient(of, theta_N, data), -along_N, atol=1e-14)

    expected(objective("grpo", beta=0, on_policy=True, scale="none"), rates_N)
    expected(objective("nash_md", beta=TAU), rates_N - TAU * (theta_N - ref_N))


# Rates.


@cache
def _played(name: str, method: Callable[..., Method], steps: int, *settings: float | None) -> Tensor:
    return play(method(*settings), GAMES[name], steps)


@without_order
def test_the_average_of_sppo_approaches_nash_like_one_over_root_T(game: Game) -> None:
    """With eta = 4 / sqrt(T); the last policy goes round in circles."""
    short, long = (_played(game.name, methods.sppo, steps, 4 / math.sqrt(steps)) for steps in (16, 256))
    ratio = gaps(averages(long)[-1:], game)[0] / gaps(averages(short)[-1:], game)[0]
    assert ratio < 16**-0.45
    assert min(gaps(long[-128:], game)) > 0.05


@every_game
def test_the_average_of_spo_keeps_the_bound_of_multiplicative_weights(game: Game) -> None:
    """Both players' regret: 2 (log(1 / start) / (eta T) + eta / 8), for each T and eta."""
    steps, surprise = 512, float(-game.log_start_N.min())
    for eta in (0.1, 0.4):
        found = gaps(averages(_played(game.name, methods.spo, steps, eta)), game)
        assert all(gap <= 2 * (surprise / (eta * (t + 1)) + eta / 8) for t, gap in enumerate(found))
    ratio = gaps(averages(_played(game.name, methods.spo, 1024, 4 / 32))[-1:], game)[0]
    ratio /= gaps(averages(_played(game.name, methods.spo, 64, 4 / 8))[-1:], game)[0]
    assert ratio < 16**-0.45


def test_sppo_and_spo_go_the_same_way() -> None:
    ours, theirs = (_played("cyclic", method, 64, 0.1) for method in (methods.sppo, methods.spo))
    assert (ours - theirs).abs().max() < 2e-3


@every_game
def test_egpo_converges_linearly_to_the_regularised_nash_policy(game: Game) -> None:
    """KL and gap fall by the same factor at each step, about (1 - eta tau)^2."""
    far = distances(_played(game.name, methods.egpo, 64, TAU, 1.0), game, TAU)
    gap = gaps(_played(game.name, methods.egpo, 64, TAU, 1.0), game, TAU)
    for t in (15, 31):
        assert far[2 * t + 1] / far[t] < (1 - TAU) ** (1.9 * (t + 1))
        assert gap[2 * t + 1] / gap[t] < (1 - TAU) ** (1.9 * (t + 1))
    slopes = [math.log(far[t + 8] / far[t]) / 8 for t in (23, 31, 39, 47)]
    assert max(slopes) - min(slopes) < 0.1 * abs(slopes[0])


def test_extragradient_bears_a_step_that_mirror_descent_does_not() -> None:
    """In the random game at eta 4, EGPO has arrived at step 32, and its half step alone has not."""
    game = GAMES["random"]
    both = [distances(_played("random", method, 32, TAU, 4.0), game, TAU)[-1] for method in (methods.egpo, methods.online_ipo)]
    assert both[0] < 1e-12 and both[1] > 1e-4


@every_game
@pytest.mark.parametrize("method", [methods.inpo, methods.nash_md], ids=["inpo", "nash_md"])
def test_falling_steps_bring_the_last_policy_there_at_one_over_T(game: Game, method: Callable[..., Method]) -> None:
    """INPO with eta_t = tau (t + 2) / 2, Nash-MD with 2 / (tau (t + 2)): T KL falls."""
    far = distances(_played(game.name, method, 128, TAU, None), game, TAU)
    scaled = [(t * far[t - 1]) for t in (8, 16, 32, 64, 128)]
    assert all(later < earlier for earlier, later in zip(scaled, scaled[1:], strict=False)), scaled
    assert far[-1] < 1e-4


@every_game
def test_constant_steps_of_inpo_and_mnpo_converge_linearly(game: Game) -> None:
    plain = distances(_played(game.name, methods.inpo, 64, TAU, 1.0), game, TAU)
    remembering = distances(_played(game.name, methods.mnpo, 64, TAU, 1.0, 2), game, TAU)
    assert plain[63] / plain[31] < 0.01 and remembering[63] / remembering[31] < 0.05
    alone = _played(game.name, methods.mnpo, 8, TAU, 1.0, 1)
    assert torch.allclose(alone, _played(game.name, methods.inpo, 8, TAU, 1.0), atol=1e-9)


@without_order
def test_constant_steps_of_nash_md_stop_short_by_their_size(game: Game) -> None:
    """Its opponent is mixed with the reference: at a constant eta the last policy is off by eta tau, the gap by its square."""
    wide, narrow = (gaps(_played(game.name, methods.nash_md, steps, TAU, eta), game, TAU)[-1] for steps, eta in ((128, 1.0), (256, 0.5)))
    assert wide > 1e-5 and 3 < wide / narrow < 6


@every_game
def test_online_ipo_and_the_policy_gradient_approach_it(game: Game) -> None:
    first = distances(game.log_start_N.exp()[None], game, TAU)[0]
    second = distances(_played(game.name, methods.online_ipo_2, 64, TAU, 0.3), game, TAU)[-1]
    plain = distances(_played(game.name, methods.nash_md_pg, 64, TAU, 4.0, 0.02), game, TAU)[-1]
    assert second < 1e-3 * first and plain < 0.05 * first


def test_extrapolation_shortens_the_way_where_there_is_an_order() -> None:
    """The winner's log-odds grow 1 / (1 - alpha) times as fast; in a cycle the last policy is no nearer for it."""
    plain, fast = (gaps(_played("transitive", *of), GAMES["transitive"]) for of in ((methods.sppo, 64, 0.5), ACCELERATED))
    steps = [next(t for t, gap in enumerate(each) if gap < 0.01) for each in (plain, fast)]
    assert steps[1] / steps[0] == pytest.approx(0.7, abs=0.06)
    assert min(gaps(_played("cyclic", *ACCELERATED)[-32:], GAMES["cyclic"])) > 0.05


ACCELERATED = (methods.accelerated_sppo, 64, 0.5, 0.3)


# What motivates all this.


@without_order
def test_dpo_on_its_first_pairs_goes_to_a_policy_that_others_beat(game: Game) -> None:
    """Bradley-Terry has scores for a cycle too: the best scored response takes all, and something beats it."""
    dpo = gaps(averages(_played(game.name, methods.offline_dpo, 128, 1.0)), game)
    sppo = gaps(averages(_played(game.name, methods.sppo, 128, 0.35)), game)
    assert dpo[-1] > 0.25 and dpo[-1] > dpo[63] and sppo[-1] < 0.06


@without_order
def test_best_responses_of_dpo_run_in_circles_where_mirror_descent_arrives(game: Game) -> None:
    """Fitted afresh to the last policy's pairs and a fixed reference, DPO and IPO jump to a best response; INPO and EGPO step."""
    dpo, ipo, inpo, egpo = (
        gaps(_played(game.name, *of), game, TAU)
        for of in (
            (methods.online_dpo, 32, TAU),
            (methods.inpo, 32, TAU, TAU),
            (methods.inpo, 64, TAU, 1.0),
            (methods.egpo, 64, TAU, 1.0),
        )
    )
    assert sum(dpo[-16:]) / 16 > 0.03 and sum(ipo[-16:]) / 16 > 0.03
    assert inpo[-1] < 1e-6 and egpo[-1] < 1e-7


def test_small_steps_of_dpo_settle_beside_the_nash_policy() -> None:
    """Even in order: what DPO's fit of its own pairs settles at is not the regularised Nash policy."""
    game = GAMES["transitive"]
    assert gaps(_played("transitive", methods.dpo_steps, 128, TAU, 8.0), game, TAU)[-1] > 1e-3
    assert gaps(_played("transitive", methods.egpo, 64, TAU, 1.0), game, TAU)[-1] < 1e-6


def test_comparisons_drawn_by_chance_leave_averages_near() -> None:
    game = GAMES["cyclic"]
    for method in (methods.egpo(TAU, 1.0), methods.inpo(TAU, 1.0), methods.mnpo(TAU, 1.0, 2)):
        policies_TN = play(method, game, 96, Noisy(game.preference_NN, 256, seed=3))
        first = gaps(game.log_start_N.exp()[None], game, TAU)[0]
        assert gaps(averages(policies_TN)[-1:], game, TAU)[0] < 0.1 * first


def test_with_noise_larger_steps_hover_farther_out() -> None:
    game = GAMES["cyclic"]
    hovering = [gaps(play(methods.egpo(TAU, eta), game, 160, Noisy(game.preference_NN, 256, seed=0))[-64:], game, TAU) for eta in (0.25, 4)]
    assert sum(hovering[1]) > 3 * sum(hovering[0])
