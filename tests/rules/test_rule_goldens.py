"""The checks of golden vectors of pair construction and win rates notice a wrong number."""

import copy

import pytest

from tests.golden import rule_checks
from tests.golden.adapter import load

WRONG = {
    "INPO": [{"winner": 3}, {"loser": 0}, {"num_comparisons": 10}, {"keep_pair": False}],
    "DNO": [{"pairs_pos_neg": [[0, 1]]}],
    "GPM+SPPO": [{"prob": [[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.6]]}, {"row_mean": [0.5, 0.5, 0.6]}],
    "SPO": [{"reward": [0.7, 0.6, 0.3, 0.3]}, {"mean": 0.6}],
}
VECTORS = [vector for vector in load() if (vector["method"], vector["variant"]) in rule_checks.CHECKS]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_right_numbers_pass_and_wrong_ones_do_not(vector):
    check = rule_checks.CHECKS[vector["method"], vector["variant"]]
    check(vector, "float64")
    for wrong in WRONG[vector["method"]]:
        changed = copy.deepcopy(vector)
        changed["expected"] |= wrong
        with pytest.raises(AssertionError):
            check(changed, "float64")
