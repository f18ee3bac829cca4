"""Judges: the contract over every file in the folder, the reductions they share, and what each one scores."""

import importlib.util
import math
import random

import pytest

from judges import Group, exact_answer, length, similarity
from metrics import win_rates
from pipeline import plugin
from tests.support.gpm_shaped import gpm_shaped
from tests.support.models import tiny_reward
from tests.support.pairrm_shaped import pairrm_shaped
from tests.support.steps import folder, tools

GROUPS = [
    Group("a", ({"role": "user", "content": "2 + 2?"},), ("4", "five", "", "4"), {"answer": "4"}),
    Group("one", ({"role": "user", "content": "say hi"},), ("hi",), {"answer": "hi"}),
    Group(
        "unicode",
        ({"role": "system", "content": "Kürze"}, {"role": "user", "content": "漢字"}),
        ("漢字 é", "ß\u200d👩‍🚀", " \n"),
        {"answer": "漢字 é"},
    ),
    Group("bare", ({"role": "user", "content": "no answer is known"},), ("yes", "no"), {}),
    Group("ties", ({"role": "user", "content": "x"},), ("same", "same", "same"), {"answer": "other"}),
]


# What judges that hold others, or an anchor, need beside models; every engine is the scripted grader, which knows each text's worth.
SETTINGS = {
    "anchor": {"judge": {"kind": "length"}, "meta": "answer"},
    "ensemble": {"judges": ["length", "similarity", "exact_answer"], "min_judges": 1},
}
INTRANSITIVE = {"pairrm", "pairwise", "ensemble", "gpm"}
"""Their scores and win tables come about in different ways, and may order two responses differently."""


def _verdicts(kind: str, groups: list[Group], path):
    """Verdicts of any judge: what it reads is made as its fields ask, a model having the shape that its judge is for."""
    module = plugin.load("judges", kind)
    needs_model = [name for name in ("model",) if name in module.Config.model_fields]
    if needs_model and "forward" in module.USES and importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    make = {"pairrm": pairrm_shaped, "reward_model": tiny_reward, "gpm": gpm_shaped}.get(kind, _nothing)
    inputs = {name: (folder(make(path / name)),) for name in needs_model}
    settings = {**SETTINGS.get(kind, {}), **{name: name for name in needs_model}}
    given = tools(path / "judged", inputs=inputs, engine="tests.support.plugins.grader")
    return module.judge(module.Config.model_validate(settings), groups, given)


def _nothing(path):
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("kind", plugin.names("judges"))
def test_every_judge_keeps_the_contract(kind, tmp_path):
    """Order, length, one response, empty text, ties, Unicode, and verdicts that do not depend on their neighbours."""
    verdicts = _verdicts(kind, GROUPS, tmp_path / "all")
    assert len(verdicts) == len(GROUPS)
    for group, verdict in zip(GROUPS, verdicts, strict=True):
        assert len(verdict.scores) == len(group.responses)
        assert all(score is None or math.isfinite(score) for score in verdict.scores)
        same = [i for i, text in enumerate(group.responses) if text == group.responses[0]]
        assert len({verdict.scores[i] for i in same}) == 1, "equal texts, different scores"
        if verdict.wins is None:
            continue
        assert None not in verdict.scores
        for i, line in enumerate(verdict.wins):
            assert len(line) == len(group.responses) and line[i] == 0.5
            for j, win in enumerate(line):
                assert 0 <= win <= 1 and win + verdict.wins[j][i] == pytest.approx(1, abs=1e-12)
                assert verdict.scores[i] <= verdict.scores[j] or verdict.wins[i][j] >= 0.5 or kind in INTRANSITIVE
    backwards = _verdicts(kind, GROUPS[::-1], tmp_path / "reversed")[::-1]
    for one, other in zip(verdicts, backwards, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-5)
    assert _verdicts(kind, [], tmp_path / "none") == []


def test_scores_and_wins_of_a_logit_matrix():
    logits = [[0.0, 1.2, -0.4], [-0.9, 0.0, -2.0], [0.6, 1.5, 0.0]]
    scores = win_rates.scores_from_logits(logits)
    assert scores == pytest.approx((1.1 / 3, -5.6 / 3, 1.5))
    pairwise = win_rates.wins_pairwise(logits)
    assert pairwise[0][1] == pytest.approx(1 / (1 + math.exp(-1.05)))
    aggregated = win_rates.wins_aggregated(scores)
    assert aggregated[0][1] == pytest.approx(1 / (1 + math.exp(-6.7 / 3)))
    assert win_rates.wins_aggregated([1e6, -1e6]) == ((0.5, 1.0), (0.0, 0.5))


def test_win_rates_with_and_without_oneself():
    wins = win_rates.wins_certain([3.0, 1.0, 3.0])
    assert wins == ((0.5, 1.0, 0.5), (0.0, 0.5, 0.0), (0.5, 1.0, 0.5))
    assert win_rates.win_rates(wins) == pytest.approx((2 / 3, 1 / 6, 2 / 3))
    assert win_rates.win_rates(wins, include_self=False) == pytest.approx((0.75, 0.0, 0.75))
    assert win_rates.win_rates(((0.5,),), include_self=False) == (None,)
    assert win_rates.wins_certain([1.0, None]) is None


@pytest.mark.parametrize(
    "response, answer",
    [
        ("so it is 72.", "Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72"),
        ("#### 72\nand 12 more words", "72"),
        ("She pays $1,234.50 in all", "1234.5"),
        ("it costs 50%", "50"),
        ("-$3", "-3"),
        ("the result: \u22127", "-7"),
        ("10-3 = 7", "7"),
        ("between 5-9", "9"),
        ("- 4 apples", "4"),
        ("we get \\boxed{\\frac{1}{2}}", "0.5"),
        ("\\boxed{12} of 40", "#### 12"),
        ("half, 1/2", "1/2"),
        ("1,000,000", "#### 1000000"),
        (".5", "0.50"),
        ("72.0", 72),
        ("either 3", ["2", "3"]),
        ("The answer is (B).", "(b)"),
        ("some thoughts\nabcd", "abcd"),
        (" ABCD\n", "abcd"),
        ("x = \\boxed{a{b}c}", "a{b}c"),
        ("７２", "72"),
    ],
)  # fmt: skip
def test_right_answers(response, answer):
    assert exact_answer.correct(response, answer)


@pytest.mark.parametrize(
    "response, answer",
    [
        ("72 of 100", "72"),
        ("", "72"),
        ("no number", "72"),
        ("3", "-3"),
        ("5-3", "-3"),
        ("1,00", "100"),
        ("#### 71, not 72", "71.5"),
        ("abdc", "abcd"),
        ("abcd abcd", "abcd"),
        ("", "abcd"),
        ("3/4", "4"),
        ("9" * 5000, "9"),
        ("1/0", "0"),
    ],
)
def test_wrong_answers(response, answer):
    assert not exact_answer.correct(response, answer)


def test_without_a_reference_nothing_is_decided():
    groups = [Group("x", (), ("1", "2"), meta) for meta in ({}, {"answer": None}, {"answer": ""}, {"answer": []}, {"answer": 0})]
    scores = [v.scores for v in exact_answer.judge(exact_answer.Config(), groups, None)]
    assert scores == [(None, None)] * 4 + [(0.0, 0.0)]


def test_lengths_in_characters_and_words():
    group = [Group("x", (), ("a b c", "漢字", ""), {})]
    assert length.judge(length.Config(), group, None)[0].scores == (5.0, 2.0, 0.0)
    assert length.judge(length.Config(unit="words", prefer="shorter"), group, None)[0].scores == (-3.0, -1.0, 0.0)


def _plain_distance(a: str, b: str) -> int:
    line = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, line[0] = line[0], i
        for j, y in enumerate(b, start=1):
            before, line[j] = line[j], min(before + (x != y), line[j] + 1, line[j - 1] + 1)
    return line[-1]


def test_edit_distance_is_the_textbook_one():
    draw = random.Random(0)
    for _ in range(500):
        a, b = ("".join(draw.choices("abc", k=draw.randint(0, 90))) for _ in range(2))
        assert similarity.distance(a, b) == _plain_distance(a, b), (a, b)


def test_similarity_grades_answers_and_spreads_by_scale():
    group = [Group("x", (), ("abcd", "abdc", "", " abcd "), {"answer": "abcd"})]
    certain = similarity.judge(similarity.Config(), group, None)[0]
    assert certain.scores == (1.0, 0.5, 0.0, 1.0)
    assert certain.wins is not None and certain.wins[0] == (0.5, 1.0, 1.0, 0.5)
    soft = similarity.judge(similarity.Config(scale=4), group, None)[0]
    assert soft.wins is not None and soft.wins[0][1] == pytest.approx(1 / (1 + math.exp(-2)))
