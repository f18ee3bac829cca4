"""Length-controlled win rate: what the win rate against a baseline would be if both wrote equally long responses.

Source: AlpacaEval 2 (arXiv:2404.04475) and its `glm_winrate.py`: a logistic regression of soft preferences on the tanh
of the standardised difference in characters, optionally the prompt's difficulty, and an intercept that "gamed"
baselines do not have; L1 penalty, its strength by cross-validation over prompts. Predictions set the difference to 0.
Legend: P prompts, G rows of gamed baselines, N rows of a regression, F features.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
STRENGTHS = tuple(float(c) for c in np.logspace(-4, 4, 10))
"""Inverse penalties that cross-validation chooses from."""


@dataclass(frozen=True)
class Gamed:
    """Judgements of the baseline against its own shortened and lengthened responses, which hold the length's coefficient in check."""

    preference_G: Array
    """P(the altered response is better)."""
    length_G: Array
    """Difference in length, standardised as by `standardised`."""
    difficulty_G: Array | None = None
    weight: float = 0.1
    """Of each row, against 1 of an ordinary one; AlpacaEval's 0.2 for two sets."""


@dataclass(frozen=True)
class LengthControlled:
    """Win rates are shares of one."""

    win_rate: float
    """At equal length."""
    standard_error: float
    """Of the mean of the predictions, as published; 0 where every prompt has the same one. Bootstrap prompts for an interval."""
    raw_win_rate: float
    length_coefficient: float
    difficulty_coefficient: float | None
    intercept: float
    inverse_penalty: float
    extreme: bool
    """Further from the raw win rate than 10 points and a quarter of the way to the bound: the fit may have failed."""


def lc_win_rate(
    preference_P: Array,
    characters_P: Array,
    baseline_characters_P: Array,
    difficulty_P: Array | None = None,
    gamed: Gamed | None = None,
    inverse_penalty: float | None = None,
    folds: int = 5,
) -> LengthControlled:
    """The win rate of a model at its baseline's length; preferences are P(the model's response is better), 0.5 a tie.

    `inverse_penalty` None chooses among STRENGTHS by cross-validation. NaN preferences are left out. Raises ValueError
    for fewer than two prompts. Where all lengths differ alike, length explains nothing and its coefficient is 0.
    """
    known_P = ~np.isnan(np.asarray(preference_P, float))
    target_P = np.asarray(preference_P, float)[known_P]
    if len(target_P) < 2:
        raise ValueError(f"a length-controlled win rate needs at least 2 judged prompts, not {len(target_P)}")
    length_P = standardised(np.asarray(characters_P, float)[known_P], np.asarray(baseline_characters_P, float)[known_P])
    hard_P = None if difficulty_P is None else np.asarray(difficulty_P, float)[known_P]
    features_NF, target_N, weight_N = _rows(target_P, length_P, hard_P, gamed)
    if inverse_penalty is None:
        inverse_penalty = _chosen(features_NF, target_N, weight_N, folds)
    found_F = fit(features_NF, target_N, weight_N, inverse_penalty)
    predicted_P = _sigmoid(features_NF[: len(target_P), 1:] @ found_F[1:])
    win_rate, raw = float(predicted_P.mean()), float(target_P.mean())
    return LengthControlled(
        win_rate=win_rate,
        standard_error=float(predicted_P.std(ddof=1) / np.sqrt(len(predicted_P))),
        raw_win_rate=raw,
        length_coefficient=float(found_F[0]),
        difficulty_coefficient=None if hard_P is None else float(found_F[1]),
        intercept=float(found_F[-1]),
        inverse_penalty=inverse_penalty,
        extreme=win_rate < min(raw - raw / 4, raw - 0.1) or win_rate > max(raw + (1 - raw) / 4, raw + 0.1),
    )


def standardised(characters_P: Array, baseline_characters_P: Array) -> Array:
    """Baseline's minus model's characters in sample standard deviations, not centred; 0 where there is no spread."""
    difference_P = np.asarray(baseline_characters_P, float) - np.asarray(characters_P, float)
    spread = difference_P.std(ddof=1)
    return difference_P / spread if spread > 0 else np.zeros_like(difference_P)


def _rows(target_P: Array, length_P: Array, difficulty_P: Array | None, gamed: Gamed | None) -> tuple[Array, Array, Array]:
    """Features (tanh of length, difficulty if given, intercept), targets and weights; the gamed rows last."""
    columns = [np.tanh(length_P), *([] if difficulty_P is None else [difficulty_P]), np.ones(len(target_P))]
    features_NF, weight_N = np.stack(columns, 1), np.ones(len(target_P))
    if gamed is None:
        return features_NF, target_P, weight_N
    if difficulty_P is not None and gamed.difficulty_G is None:
        raise ValueError("the gamed baselines have no difficulty; give it, or leave out that of the prompts")
    count = len(gamed.preference_G)
    extra = [np.tanh(gamed.length_G), *([] if difficulty_P is None else [gamed.difficulty_G]), np.zeros(count)]
    both_NF = np.concatenate([features_NF, np.stack(extra, 1)])
    return both_NF, np.concatenate([target_P, gamed.preference_G]), np.concatenate([weight_N, np.full(count, gamed.weight)])


def fit(features_NF: Array, target_N: Array, weight_N: Array, inverse_penalty: float, tolerance: float = 1e-10) -> Array:
    """The minimum of |theta|_1 + C * sum_n weight * cross-entropy(target, sigmoid(features @ theta)); soft targets in [0, 1].

    Newton's steps, each solved by coordinate descent with soft thresholding, halved until the loss falls.
    """
    theta_F = np.zeros(features_NF.shape[1])
    now = _loss(features_NF, target_N, weight_N, inverse_penalty, theta_F)
    for _ in range(200):
        p_N = _sigmoid(features_NF @ theta_F)
        slope_F = inverse_penalty * features_NF.T @ (weight_N * (p_N - target_N))
        curve_FF = inverse_penalty * (features_NF * (weight_N * p_N * (1 - p_N))[:, None]).T @ features_NF
        curve_FF += 1e-12 * np.eye(len(theta_F))
        step_F = _quadratic(slope_F, curve_FF, theta_F) - theta_F
        size = 1.0
        while (after := _loss(features_NF, target_N, weight_N, inverse_penalty, theta_F + size * step_F)) > now and size > 1e-8:
            size /= 2
        if now - after <= tolerance * max(abs(now), 1.0):
            return theta_F + size * step_F if after <= now else theta_F
        theta_F, now = theta_F + size * step_F, after
    return theta_F


def _quadratic(slope_F: Array, curve_FF: Array, theta_F: Array) -> Array:
    """The minimum of the penalised quadratic model around theta, coordinate by coordinate."""
    at_F = theta_F.copy()
    for _ in range(1000):
        before_F = at_F.copy()
        for f in range(len(at_F)):
            own = curve_FF[f, f]
            rest = slope_F[f] + curve_FF[f] @ (at_F - theta_F) - own * at_F[f]
            at_F[f] = -np.sign(rest) * max(abs(rest) - 1.0, 0.0) / own
        if np.abs(at_F - before_F).max() < 1e-12:
            break
    return at_F


def _chosen(features_NF: Array, target_N: Array, weight_N: Array, folds: int) -> float:
    """The inverse penalty with the smallest held-out cross-entropy; every row is a group of its own, as published."""
    part_N = np.arange(len(target_N)) % min(folds, len(target_N))
    scores = []
    for strength in STRENGTHS:
        held_out = []
        for part in range(part_N.max() + 1):
            inside = part_N != part
            theta_F = fit(features_NF[inside], target_N[inside], weight_N[inside], strength)
            held_out.append(np.mean(_cross_entropy(features_NF[~inside] @ theta_F, target_N[~inside]) * weight_N[~inside]))
        scores.append(np.mean(held_out))
    return STRENGTHS[int(np.argmin(scores))]


def _loss(features_NF: Array, target_N: Array, weight_N: Array, inverse_penalty: float, theta_F: Array) -> float:
    return float(np.abs(theta_F).sum() + inverse_penalty * (weight_N * _cross_entropy(features_NF @ theta_F, target_N)).sum())


def _cross_entropy(logit_N: Array, target_N: Array) -> Array:
    return np.logaddexp(0.0, logit_N) - target_N * logit_N


def _sigmoid(x_N: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x_N))
