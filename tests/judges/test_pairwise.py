"""The judge that compares two responses: all pairs, against one baseline, in a tournament. Known answers from the scripted grader."""

import itertools
import math
import random
from collections import Counter

import pytest

from judges import Group, _comparisons
from judges._comparisons import Outcome
from metrics import bracket
from tests.support.judging import ASKED, EIGHT, FACTS, GROUP, judge, shown, verdict_of

# pairwise


@pytest.mark.parametrize("mode", ["prob", "strict"])
def test_all_pairs_in_both_orders(mode, tmp_path):
    verdicts, engine = judge(tmp_path, {"kind": "pairwise", "mode": mode}, [GROUP], engine=True)
    (verdict,) = verdicts
    assert sorted(range(5), key=verdict.scores.__getitem__) == [4, 0, 1, 2, 3]
    assert len(engine.asked) == 5 * 4 and verdict.tally["calls_per_prompt"] == (20, 1)
    assert verdict.tally["position_rate"] == (10, 20) and verdict.tally["order_flips"] == (0, 10)
    if mode == "strict":
        assert verdict.scores == (0.25, 0.5, 0.75, 1, 0) and verdict.wins[3] == (1, 1, 1, 0.5, 1)
    else:
        assert verdict.wins[3][2] == pytest.approx(1 / (1 + math.exp(-2))) and engine.asked[0].options == ("A", " A", "B", " B")
        assert verdict.scores[3] == pytest.approx((sum(verdict.wins[3]) - 0.5) / 4)
    for one, other in zip(engine.asked[::2], engine.asked[1::2], strict=True):
        texts = [shown(request) for request in (one, other)]
        assert texts[0] == texts[1][::-1], "the two orders of a pair stand side by side"


def test_a_judge_that_sees_places_only_decides_nothing(tmp_path):
    biased = {"first": 9.0}
    strict = verdict_of(tmp_path / "strict", {"kind": "pairwise", "mode": "strict"}, grader=biased)
    assert strict.scores == (0.5,) * 5, "ties, all of them"
    assert strict.tally["position_rate"] == (20, 20) and strict.tally["order_flips"] == (10, 10)
    prob = verdict_of(tmp_path / "prob", {"kind": "pairwise"}, grader=biased)
    assert prob.tally["position_rate"] == (20, 20) and prob.scores[3] > 0.5 > prob.scores[4], "orders cancel, what is left is quality"


def test_outcomes():
    assert [Outcome(*o).wins(True) for o in ((1, 0), (0, 1), (1, 1), (0.5, 0), (None, 0), (1, None))] == [1, 0, 0.5, 0.5, None, None]
    assert Outcome(0.9, 0.3).wins(False) == pytest.approx(0.8) and Outcome(0.9, None).wins(False) is None
    assert [_comparisons.majority(v) for v in ([], [1], [1, 0], [0, 0, 1])] == [None, 1, 0.5, 0]


def test_undecided_pairs_leave_the_fewest_undecided():
    """Three texts are fully compared; the fourth is not, with two of them. Nobody's score rests on other opponents than the rest's."""
    sure = Outcome(1.0, 0.0)
    open = Outcome(None, 0.0)
    outcomes = {(0, 1): sure, (0, 2): sure, (1, 2): sure, (0, 3): open, (1, 3): sure, (2, 3): open}
    scores, wins = _comparisons.all_pairs([1, 1, 1, 1], outcomes, True)
    assert scores == [1, 0.5, 0, None] and wins is None
    assert _comparisons.all_pairs([1, 1], {(0, 1): open}, True) == ([None, None], None)
    assert _comparisons.all_pairs([1], {}, True) == ([0.5], ((0.5,),))
    assert _comparisons.all_pairs([2, 1], {(0, 1): sure}, True)[0] == [0.75, 0], "an equal text is a tie"


def test_against_one_baseline(tmp_path):
    """2(K-1) calls; the other pairs follow from the strengths, and e of the baseline is 0 (OSP, arXiv:2405.14103)."""
    verdicts, engine = judge(tmp_path / "first", {"kind": "pairwise", "against": "first", "tau": 2.0}, [GROUP], engine=True)
    (verdict,) = verdicts
    assert len(engine.asked) == 2 * 4
    strengths = [2 * (facts - 1) for facts in (1, 2, 3, 4, 0)]  # the grader's P(A) is sigmoid(2 * lead)
    assert verdict.scores == pytest.approx([1 / (1 + math.exp(-e)) for e in strengths])
    assert verdict.wins[3][1] == pytest.approx(1 / (1 + math.exp(-(strengths[3] - strengths[1]) / 2)))
    strict = verdict_of(tmp_path / "strict", {"kind": "pairwise", "mode": "strict", "against": "first"})
    assert strict.scores == (0.5, 1, 1, 1, 0) and strict.wins[1] == (1, 0.5, 0.5, 0.5, 1)


def test_osp_golden():
    """The strengths of 2 responses against a baseline give back the soft label p = sigmoid(e_i - e_j)."""
    outcomes = {(1, 0): Outcome(0.8, 0.2), (2, 0): Outcome(0.55, 0.45)}
    scores, wins = _comparisons.through_baseline(3, 0, outcomes, False, 1.0)
    assert scores == pytest.approx([0.5, 0.8, 0.55])
    odds = (0.8 / 0.2) / (0.55 / 0.45)
    assert wins[1][2] == pytest.approx(odds / (1 + odds)) and wins[1][0] == pytest.approx(0.8)


def test_a_prompt_without_room_is_undecided_and_the_rest_is_judged(tmp_path):
    texts = (*FACTS[:3], "Paris " * 600, "x " * 1500)
    for kind in ("rubric", "pairwise"):
        verdict = verdict_of(tmp_path / kind, {"kind": kind}, Group("g", ASKED, texts, {}), grader={"context": 5000})
        assert verdict.scores[0] is not None and verdict.scores[0] < verdict.scores[1] < verdict.scores[2]
        assert verdict.tally["too_long"][0] > 0
    assert verdict.scores[3:] == (None, None), "each alone would fit, and their pair does not"


# pairwise, as a tournament


@pytest.mark.parametrize("mode", ["prob", "strict"])
def test_a_tournament_finds_the_best_and_the_worst(mode, tmp_path):
    """Facts 2-5 1-3 2-4 0-3: winners 1 3 5 7, then 1 5, then 1; losers 0 2 4 6, then 2 6, then 6; 1 beats 6."""
    group = Group("g", ASKED, EIGHT, {})
    (verdict,), engine = judge(tmp_path, {"kind": "pairwise", "mode": mode, "against": "tournament"}, [group], engine=True)
    assert len(engine.asked) == 2 * 11 and verdict.wins is None and verdict.tally["final_upset"] == (0, 1)
    games = [(0, 1), (2, 3), (4, 5), (6, 7), (1, 3), (5, 7), (0, 2), (4, 6), (1, 5), (2, 6), (1, 6)]
    assert [tuple(each[:2]) for each in verdict.detail["orders"]] == games
    # 0 and 4 won one of two; 2 one of three; 3, 7 one of two; 5 two of three.
    assert verdict.scores == pytest.approx((0.5, 1, 1 / 3, 0.5, 0.5, 2 / 3, 0, 0.5))
    assert verdict.tally["position_rate"] == (11, 22)


def test_all_groups_play_a_level_at_once(tmp_path):
    """Groups of 8, 5 and 3: first the neighbours of all three; and the verdicts of each alone."""
    groups = [Group(f"g{count}", ASKED, EIGHT[:count], {}) for count in (8, 5, 3)]
    together, engine = judge(tmp_path / "all", {"kind": "pairwise", "against": "tournament"}, groups, engine=True)
    assert len(engine.asked) == sum(verdict.tally["calls_per_prompt"][0] for verdict in together)
    met = Counter(frozenset(shown(request)) for request in engine.asked[: 2 * (4 + 2 + 1)])
    assert met == {frozenset(EIGHT[i : i + 2]): 2 * groups for i, groups in ((0, 3), (2, 2), (4, 1), (6, 1))}
    alone = [verdict_of(tmp_path / group.id, {"kind": "pairwise", "against": "tournament"}, group) for group in groups]
    assert [verdict.scores for verdict in together] == [verdict.scores for verdict in alone]


def test_a_tournament_without_a_best_ranks_nobody(tmp_path):
    """A judge that names what stands first makes every pair a tie: the first wins each, and the final too, without beating anybody."""
    body = {"kind": "pairwise", "mode": "strict", "against": "tournament"}
    verdict = verdict_of(tmp_path / "places", body, Group("g", ASKED, EIGHT, {}), grader={"first": 9})
    assert verdict.scores == (0.5,) * 8 and verdict.tally["final_upset"] == (1, 1) and len(verdict.detail["orders"]) == 11
    alike = verdict_of(tmp_path / "alike", body, Group("g", ASKED, ("Paris",) * 4, {}))
    assert alike.scores == (0.5,) * 4 and "final_upset" not in alike.tally and alike.detail["orders"] == []


def test_a_tournament_stops_where_a_comparison_has_no_verdict(tmp_path):
    """Not a tie: the group is undecided, and what would have come next is not asked."""
    texts = (*EIGHT[:4], "Paris " * 700, *EIGHT[5:])
    groups = [Group("bad", ASKED, texts, {}), Group("good", ASKED, EIGHT, {})]
    body = {"kind": "pairwise", "against": "tournament"}
    (bad, good), engine = judge(tmp_path, body, groups, grader={"context": 4000}, engine=True)
    assert bad.scores == (None,) * 8 and bad.tally["calls_per_prompt"] == (8, 1) and bad.tally["final_upset"] == (0, 0)
    assert [each[2:] for each in bad.detail["orders"]][2] == [None, None] and good.scores[1] == 1 and good.scores[6] == 0


def test_an_anchor_comes_before_a_tournament(tmp_path):
    body = {"kind": "anchor", "judge": {"kind": "pairwise", "against": "tournament"}, "source": "past"}
    verdicts, engine = judge(tmp_path, body, [GROUP], engine=True)
    assert len(engine.asked) == 2 * 4 and verdicts[0].wins is not None


def test_brackets():
    def play(scores):
        order = {(i, j): 0.5 + (scores[i] - scores[j]) / 10 for i in range(len(scores)) for j in range(i + 1, len(scores))}
        return bracket.replay(len(scores), order)

    assert play((2, 1)) == bracket.Bracket((), ((0, 1),), (0, 1)), "the final is the comparison that was made already"
    for count, games in ((2, 1), (3, 4), (4, 6), (8, 11), (16, 23)):
        best_first = tuple(range(count, 0, -1)) if count % 2 == 0 else (1, 2, 0)
        assert len(play(best_first).played) <= games
    for order in itertools.permutations(range(5)):
        found = play(order)
        assert found.final == (order.index(4), order.index(0)) and not found.upset and len(found.played) <= 7
    assert play((0,) * 8).upset and play((0,) * 8).final == (0, 7)
    circle = {(0, 1): 1.0, (0, 2): 0.0, (1, 2): 1.0}  # 0 beats 1, 1 beats 2, 2 beats 0: whoever is left over wins and loses
    assert bracket.replay(3, circle) == bracket.Bracket((), ((0, 1), (0, 2), (1, 2)), (2, 2), upset=True)
    lost = {(0, 1): 1.0, (2, 3): 1.0, (0, 2): 1.0, (1, 3): 1.0, (0, 3): 0.4}
    assert bracket.replay(4, lost).upset and not bracket.replay(4, {**lost, (0, 3): 0.6}).upset
    scores, over = _comparisons.through_bracket(4, {pair: Outcome(p, 1 - p) for pair, p in lost.items()}, False)
    assert scores == [0.5] * 4 and over.final == (0, 3)


def test_in_any_tournament_the_finalists_alone_have_the_highest_and_the_lowest_score():
    for seed in range(300):
        draw = random.Random(seed)
        count = draw.randint(2, 17)
        outcomes: dict = {}
        while (so_far := _comparisons.bracket(count, outcomes, True)) and so_far.open:
            outcomes |= {pair: draw.choice((Outcome(1.0, 0.0), Outcome(0.0, 1.0), Outcome(1.0, 1.0))) for pair in so_far.open}
        scores, over = _comparisons.through_bracket(count, outcomes, True)
        assert set(over.played) == set(outcomes)
        if not over.upset:
            best, worst = over.final
            assert all(0 < score < 1 for i, score in enumerate(scores) if i not in over.final) and (scores[best], scores[worst]) == (1, 0)
