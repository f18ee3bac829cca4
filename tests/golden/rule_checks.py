"""How the golden vectors of pair construction and win rates map to our code."""

from collections.abc import Callable
from typing import Any

import pytest

from judges import Group
from metrics import bracket, win_rates
from rules import margin, tournament
from tests.support.groups import judged

Vector = dict[str, Any]


def check_tournament(vector: Vector, dtype: str) -> None:
    """INPO's selection over a win table: the pair, and how many comparisons it takes."""
    table, expected = vector["inputs"]["pref"], vector["expected"]
    count = vector["params"]["K"]
    played = bracket.replay(count, {(i, j): table[i][j] for i in range(count) for j in range(i + 1, count)})
    assert played.final == (expected["winner"], expected["loser"])
    assert len(played.played) == expected["num_comparisons"] and played.upset is not expected["keep_pair"]
    group = _group(["policy"] * count, [0.0] * count, table)
    picks, reason = tournament.choose(tournament.Config(), group, 0)
    wanted = [(expected["winner"], expected["loser"])] if expected["keep_pair"] else []
    assert [(pick.chosen, pick.rejected) for pick in picks] == wanted and (reason is None) is expected["keep_pair"]


def check_margins(vector: Vector, dtype: str) -> None:
    """DNO's pairs from grades: the teacher's positives need a wider gap than the student's."""
    candidates, params = vector["inputs"]["candidates"], vector["params"]
    config = margin.Config(
        teacher="gold",
        min_positive=params["min_positive_score"],
        teacher_gap=params["margin_teacher_positive"],
        own_gap=params["margin_student_positive"],
    )
    group = _group([each["source"] for each in candidates], [float(each["score"]) for each in candidates])
    picks, _ = margin.choose(config, group, 0)
    assert sorted([pick.chosen, pick.rejected] for pick in picks) == sorted(vector["expected"]["pairs_pos_neg"])


def check_prob_from_raw(vector: Vector, dtype: str) -> None:
    """GPM's script: P = sigmoid(t_ij - t_ji), twice the mean logit of both orders that `wins_pairwise` takes."""
    logits, expected = vector["inputs"]["table"], vector["expected"]
    found = win_rates.wins_pairwise([[2 * logit for logit in row] for row in logits])
    _same(found, expected["prob"])
    _same([win_rates.win_rates(found)], [expected["row_mean"]])
    _same([win_rates.scores_from_logits(logits)], [expected["rank_scores"]])


def check_rewards(vector: Vector, dtype: str) -> None:
    """SPO's reward of a response: its win rate against the others of the batch, itself left out."""
    found, expected = win_rates.win_rates(vector["inputs"]["pref"], include_self=False), vector["expected"]
    _same([found], [expected["reward"]])
    known = [rate for rate in found if rate is not None]
    mean = sum(known) / len(known)
    _same([[mean], [rate - mean for rate in known]], [[expected["mean"]], expected["centered"]])


def _group(sources: list[str], scores: list[float], wins: list[list[float]] | None = None) -> Group:
    count = len(sources)
    texts = tuple(f"response {i}" for i in range(count))
    return judged(texts, ("stop",) * count, tuple(sources), tuple(scores), None if wins is None else tuple(map(tuple, wins)))


def _same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


CHECKS: dict[tuple[str, str], Callable[[Vector, str], None]] = {
    ("INPO", "tournament selection K=8"): check_tournament,
    ("DNO", "pair construction from 6-point scores (5 student samples + gold)"): check_margins,
    ("GPM+SPPO", "compute_prob_from_raw: table -> win prob (scores are doubled)"): check_prob_from_raw,
    ("SPO", "win-rate reward within a batch of K=4 rollouts (self excluded)"): check_rewards,
}
