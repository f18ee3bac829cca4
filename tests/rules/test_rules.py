"""Pair rules: which responses they pick, and the reason they give when they pick none."""

import pytest

from judges import Group
from pipeline import plugin
from pipeline.errors import Refusal
from rules import Pick
from rules.best_vs_worst import Config, choose
from tests.support.groups import judged


def _group(scores, *, texts=None, finish_reasons=None, wins=None) -> Group:
    texts = texts or tuple(f"text {i}" for i in range(len(scores)))
    return judged(tuple(texts), finish_reasons or ("stop",) * len(scores), ("policy",) * len(scores), tuple(scores), wins)


# Those that have to be told who made what go by that, and have tests of their own.
BY_SCORE = [k for k in plugin.names("rules") if not any(f.is_required() for f in plugin.load("rules", k).Config.model_fields.values())]


@pytest.mark.parametrize("kind", BY_SCORE)
def test_every_rule_gives_pairs_or_a_reason(kind):
    """With default settings: indices in range, never a response against itself, and a reason if and only if there is no pair."""
    module = plugin.load("rules", kind)
    for scores in ((1.0, 2.0, 0.0), (1.0, 1.0), (1.0,), (), (None, None), (None, 1.0, 0.5), (None, 1.0)):
        picks, reason = module.choose(module.Config(), _group(scores), 0)
        assert bool(picks) == (reason is None)
        for pick in picks:
            assert pick.chosen != pick.rejected and max(pick.chosen, pick.rejected) < len(scores)
            assert scores[pick.chosen] > scores[pick.rejected]


def test_the_first_of_equals_is_picked_on_both_sides():
    assert choose(Config(), _group((0.9, 0.9, -0.9, -0.9, 0.0)), 0) == ([Pick(0, 2)], None)
    assert choose(Config(), _group((8.0, -2.0, -2.0)), 0) == ([Pick(0, 1)], None)


def test_the_published_code_pairs_a_tie_with_itself():
    parity = Config(tie="keep", identical="keep")
    assert choose(parity, _group((0.0, 0.0, 0.0)), 0) == ([Pick(0, 0)], None)


@pytest.mark.parametrize(
    "settings, group, reason",
    [
        ({}, _group((1.0,)), "single"),
        ({}, _group((1.0, 1.0)), "tie"),
        ({}, _group((1.0, 0.0), texts=("same", "same")), "identical"),
        ({"tie": "keep"}, _group((1.0, 1.0)), "identical"),
        ({}, _group((1.0, 0.0), texts=("full", " \n")), "empty"),
        ({}, _group((1.0, 0.0), texts=("", "full")), "empty"),
        ({"truncated": "drop_chosen"}, _group((1.0, 0.0), finish_reasons=("length", "stop")), "truncated"),
        ({"truncated": "drop"}, _group((1.0, 0.0), finish_reasons=("stop", "length")), "truncated"),
        ({}, _group((None, 1.0)), "undecided"),
        ({"undecided": "drop"}, _group((None, 1.0, 0.0)), "undecided"),
        ({"by": "win_rate"}, _group((None, 1.0, 0.0)), "undecided"),
    ],
)
def test_reasons(settings, group, reason):
    assert choose(Config(**settings), group, 0) == ([], reason)


@pytest.mark.parametrize(
    "settings, group, pick",
    [
        ({}, _group((None, 1.0, 0.0)), Pick(1, 2)),
        ({"empty": "keep"}, _group((1.0, 0.0), texts=("full", "")), Pick(0, 1)),
        ({}, _group((1.0, 0.0), finish_reasons=("length", "length")), Pick(0, 1)),
        ({"truncated": "drop_chosen"}, _group((1.0, 0.0), finish_reasons=("stop", "length")), Pick(0, 1)),
        ({"by": "win_rate"}, _group((0.0, 9.0), wins=((0.5, 0.8), (0.2, 0.5))), Pick(0, 1)),
    ],
)
def test_kept(settings, group, pick):
    assert choose(Config(**settings), group, 0) == ([pick], None)


def test_win_rates_need_a_table():
    with pytest.raises(Refusal, match="needs a win table"):
        choose(Config(by="win_rate"), _group((1.0, 0.0)), 0)
