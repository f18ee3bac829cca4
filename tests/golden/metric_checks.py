"""How the golden vectors of metrics map to our functions. Tolerance 1e-9, but for the fits of the length-controlled win rate."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from metrics import diversity, judge_statistics, lc_win_rate, matches, ranking_accuracy

Vector = dict[str, Any]
POINTS = 0.2
"""Of a hundred: how far a length-controlled win rate may be from the published estimator's."""


def same(found: Any, expected: Any) -> None:
    assert found == pytest.approx(expected, abs=1e-9)


def check_lc_win_rate(vector: Vector, dtype: str) -> None:
    """With the penalty given where the published estimator had it given, else with the one that cross-validation chooses."""
    inputs, params, expected = vector["inputs"], vector["params"], vector["expected"]
    gamed = inputs.get("gamed_baselines")
    found = lc_win_rate.lc_win_rate(
        inputs["preference_for_model"],
        inputs["len_chars_model"],
        inputs["len_chars_baseline"],
        inputs["instruction_difficulty"] if "instruction_difficulty" in params["formula"] else None,
        gamed
        and lc_win_rate.Gamed(
            np.asarray(gamed["preference"]),
            np.asarray(gamed["std_delta_len"]),
            np.asarray(gamed["instruction_difficulty"]),
            params["lambda_gamed"] / 2,
        ),
        inverse_penalty=None if params["n_splits"] else expected["C"],
        folds=params["n_splits"] or 5,
    )
    assert abs(100 * found.win_rate - expected["length_controlled_winrate"]) < POINTS
    assert abs(100 * found.standard_error - expected["lc_standard_error"]) < 0.05
    assert found.raw_win_rate == pytest.approx(vector["raw_win_rate"] / 100)
    assert found.inverse_penalty == pytest.approx(expected["C"])
    ours = {
        "np.tanh(std_delta_len)": found.length_coefficient,
        "instruction_difficulty": found.difficulty_coefficient,
        "not_gamed_baseline.astype(float)": found.intercept,
    }
    assert {name: ours[name] for name in expected["coef"]} == pytest.approx(expected["coef"], abs=1e-3)


def check_ranking(vector: Vector, dtype: str) -> None:
    given, beta, expected = vector["inputs"], vector["params"]["beta"], vector["expected"]
    C, R, X, Y = (np.asarray(given[f"{who}_{side}_logps"]) for who in ("policy", "ref") for side in ("chosen", "rejected"))
    per_token = [ranking_accuracy.length_normalised(logps, given[f"{side}_lengths"]) for logps, side in ((C, "chosen"), (R, "rejected"))]
    met = ranking_accuracy.against_reference(C, R, X, Y)
    accuracy = ranking_accuracy.ranking_accuracy(C, R)
    ideal = ranking_accuracy.idealised_ranking_accuracy(X, Y, given["human_win_proportion"], beta)
    assert accuracy is not None and ideal is not None
    same(accuracy, expected["ranking_accuracy"])
    same(met.ranking_accuracy, expected["ref_ranking_accuracy"])
    same(ranking_accuracy.ranking_accuracy(*per_token), expected["ranking_accuracy_length_normalised"])
    same(met.reward_accuracy, expected["implicit_reward_accuracy"])
    same(ideal, expected["idealised_ranking_accuracy"])
    same(ideal - accuracy, expected["alignment_gap"])
    same(ranking_accuracy.flip_threshold_loss(X, Y, beta).tolist(), expected["flip_threshold_loss"])


def check_arena_hard(vector: Vector, dtype: str) -> None:
    games, weight = vector["inputs"]["games_verdicts"], vector["params"]["weight"]
    entries = [matches.arena_hard_entries(first, second, weight) for first, second in games]
    expected = vector["expected"]["per_battle"]  # the published code lists the second game first
    same([each for game in entries for each in sorted(game)], [each for game in expected for each in sorted(game)])
    same(matches.arena_hard(games, weight), vector["expected"]["win_rate"])


def check_mt_bench(vector: Vector, dtype: str) -> None:
    found = matches.mt_bench(vector["inputs"]["g1_g2_winners"])
    same({name: getattr(found, name) for name in vector["expected"]}, vector["expected"])


def check_cycles(vector: Vector, dtype: str) -> None:
    found, triples = judge_statistics.cycles(vector["inputs"]["pref_matrix"])
    same([found, triples, found / triples], [vector["expected"][name] for name in ("cyclic_triples", "triples", "rate")])


def check_position(vector: Vector, dtype: str) -> None:
    found = judge_statistics.swap_test([tuple(each) for each in vector["inputs"]["verdict_pairs"]])
    assert found is not None
    ours = (found.consistency, found.first_position_bias, found.second_position_bias, found.bias)
    same(ours, tuple(vector["expected"][name] for name in ("consistency", "first_position_bias", "second_position_bias", "bias_score")))


def check_distinct(vector: Vector, dtype: str) -> None:
    for n in vector["params"]["n"]:
        same(diversity.distinct_n(vector["inputs"]["texts"], n), vector["expected"][f"distinct_{n}"])


CHECKS: dict[tuple[str, str], Callable[[Vector, str], None]] = {
    ("lc_win_rate", "minimal_fixed_C100"): check_lc_win_rate,
    ("lc_win_rate", "noreg_fixed_C100"): check_lc_win_rate,
    ("lc_win_rate", "length_controlled_minimal"): check_lc_win_rate,
    ("lc_win_rate", "length_controlled_v1"): check_lc_win_rate,
    ("ranking", "sum_logps"): check_ranking,
    ("arena_hard", "weight3"): check_arena_hard,
    ("mt_bench_pairwise", "adjusted_win_rate"): check_mt_bench,
    ("judge_cycles", "3-cycle rate"): check_cycles,
    ("judge_position", "swap test"): check_position,
    ("distinct_n", "corpus whitespace"): check_distinct,
}
