"""Metrics against the golden vectors, against plain recomputation, and where there is nothing to measure."""

import itertools
import math

import numpy as np
import pytest

from metrics import alarms, divergence, diversity, gaps, judge_statistics, lc_win_rate, matches, ranking_accuracy
from tests.golden import adapter

VECTORS = [each for each in adapter.load() if "metric" in each]


@pytest.mark.parametrize("vector", VECTORS, ids=[each["id"] for each in VECTORS])
def test_golden(vector):
    adapter.check(vector, "float64")


def test_golden_notices_a_wrong_number():
    assert len(VECTORS) >= 10 and {"lc_win_rate", "ranking", "distinct_n"} <= {each["metric"] for each in VECTORS}

    def nudged(value):
        if isinstance(value, dict):
            return {name: nudged(each) for name, each in value.items()}
        if isinstance(value, list):
            return [nudged(each) for each in value]
        return value + 0.3 if isinstance(value, int | float) else value

    for vector in VECTORS:
        with pytest.raises(AssertionError):
            adapter.check({**vector, "expected": nudged(vector["expected"])}, "float64")


# Length-controlled win rate.


def draw(count=200, seed=0):
    random = np.random.default_rng(seed)
    base = random.integers(200, 2000, count)
    mine = (base * random.uniform(0.5, 2, count)).astype(int)
    logit = 0.4 + 1.5 * np.tanh((mine - base) / (base - mine).std())
    return random.uniform(size=count) < 1 / (1 + np.exp(-logit)), mine, base


def test_length_is_taken_out_of_the_win_rate():
    won, mine, base = draw(4000)
    found = lc_win_rate.lc_win_rate(won.astype(float), mine, base)
    assert abs(found.win_rate - 1 / (1 + math.exp(-0.4))) < 0.03  # what the length has no part in
    assert found.raw_win_rate == won.mean() and found.length_coefficient < -1
    swapped = lc_win_rate.lc_win_rate(1.0 - won, base, mine)
    assert swapped.win_rate == pytest.approx(1 - found.win_rate, abs=1e-6)


def test_the_fit_is_the_minimum_of_its_penalised_loss():
    random = np.random.default_rng(1)
    features, target, weight = random.normal(size=(60, 3)), random.uniform(size=60), random.uniform(0.1, 1, 60)

    def loss(theta, strength):
        p = 1 / (1 + np.exp(-features @ theta))
        return np.abs(theta).sum() - strength * (weight * (target * np.log(p) + (1 - target) * np.log(1 - p))).sum()

    for strength in (1e-4, 0.1, 1.0, 100.0):
        found = lc_win_rate.fit(features, target, weight, strength)
        best = loss(found, strength)
        assert all(loss(found + random.normal(size=3) * scale, strength) >= best for scale in (1e-4, 1e-2, 1) for _ in range(50))
    assert (lc_win_rate.fit(features, target, weight, 1e-4) == 0).all()


def test_a_win_rate_with_nothing_to_fit_stays_finite():
    same = lc_win_rate.lc_win_rate(np.asarray([1.0, 0.0, 1.0, 1.0]), np.full(4, 10), np.full(4, 10))
    assert same.length_coefficient == 0 and 0.5 <= same.win_rate <= 0.76  # the penalty pulls to a half, never past it
    everything = lc_win_rate.lc_win_rate(np.ones(30), np.arange(30), np.arange(30)[::-1])
    assert 0.5 < everything.win_rate < 1 and math.isfinite(everything.length_coefficient)
    known = lc_win_rate.lc_win_rate(np.asarray([1.0, np.nan, 0.0, 0.5]), np.asarray([1, 2, 3, 4]), np.asarray([4, 3, 2, 1]))
    assert known.raw_win_rate == 0.5
    for few in ([], [1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="at least 2 judged prompts"):
            lc_win_rate.lc_win_rate(np.asarray(few), np.ones(len(few)), np.ones(len(few)))


# Ranking accuracy.


def test_ranking_accuracies_by_hand():
    random = np.random.default_rng(2)
    C, R, X, Y = (-random.uniform(1, 50, 40) for _ in range(4))
    C[:3], R[:3] = R[:3], R[:3]
    label, beta = random.uniform(0.01, 0.99, 40), 0.3
    assert ranking_accuracy.ranking_accuracy(C, R) == sum(c > r for c, r in zip(C, R, strict=True)) / 40
    assert ranking_accuracy.tie_share(C, R) == 3 / 40
    met = ranking_accuracy.against_reference(C, R, X, Y)
    assert met.reward_accuracy == sum(c - x > r - y for c, r, x, y in zip(C, R, X, Y, strict=True)) / 40
    ideal = sum(x - y + math.log(a / (1 - a)) / beta > 0 for x, y, a in zip(X, Y, label, strict=True)) / 40
    assert ranking_accuracy.idealised_ranking_accuracy(X, Y, label, beta) == ideal
    # A pair is ranked rightly exactly if its DPO loss is below its threshold.
    dpo = np.logaddexp(0, -beta * ((C - X) - (R - Y)))
    assert ((dpo < ranking_accuracy.flip_threshold_loss(X, Y, beta)) == (C > R)).sum() >= 37  # the three ties lie on the threshold
    assert met.hardness_mean == pytest.approx(np.mean(Y - X))


def test_an_unknown_label_is_three_quarters_and_a_sure_one_stays_finite():
    one = np.asarray([-1.0])
    assert ranking_accuracy.idealised_margins(one, one, np.asarray([np.nan]), 0.5)[0] == pytest.approx(2 * math.log(3))
    assert ranking_accuracy.idealised_margins(one, one, np.asarray([1.0]), 1.0)[0] == pytest.approx(math.log(999))
    assert ranking_accuracy.idealised_ranking_accuracy(one, one, np.asarray([0.5]), 1.0) == 0.0  # a tie is not right


def test_nothing_is_ranked_where_there_is_nothing():
    none = np.zeros(0)
    assert ranking_accuracy.ranking_accuracy(none, none) is None and ranking_accuracy.tie_share(none, none) is None
    assert ranking_accuracy.saturated_share(none) is None
    assert ranking_accuracy.against_reference(none, none, none, none).hardness_mean is None
    empty = ranking_accuracy.length_normalised(np.asarray([-4.0, 0.0]), np.asarray([2, 0]))
    assert empty[0] == -2 and math.isnan(empty[1])
    assert ranking_accuracy.ranking_accuracy(empty[1:], empty[:1]) == 0.0
    assert ranking_accuracy.saturated_share(np.asarray([2.94, 2.95])) == 0.5  # sigmoid(2.944...) is 0.95


# Diversity and gaps.


def test_distinct_n_and_unique_answers():
    assert diversity.distinct_n(["a b", "a b"], 2) == 0.5 and diversity.distinct_n(["a", ""], 2) is None
    assert diversity.distinct_n([], 1) is None
    with pytest.raises(ValueError, match="at least one word"):
        diversity.distinct_n(["a"], 0)
    assert diversity.unique_share([["a", "a", "b", "c"], ["x", "x"], ["alone"]]) == (3 / 4 + 1 / 2) / 2
    assert diversity.unique_share([["alone"]]) is None and diversity.unique_share([]) is None


def plain_bleu(hypothesis, references):
    """BLEU-4 as its definition has it, by counting lists."""
    own = hypothesis.split()
    references = [text.split() for text in references]
    precisions = []
    for n in range(1, min(4, len(own)) + 1):
        grams = [tuple(own[i : i + n]) for i in range(len(own) - n + 1)]
        others = [[tuple(each[i : i + n]) for i in range(len(each) - n + 1)] for each in references]
        matched = sum(min(grams.count(gram), max(each.count(gram) for each in others)) for gram in set(grams))
        if n == 1 and not matched:
            return 0.0
        precisions.append((matched or 0.1) / len(grams))
    closest = min((len(each) for each in references), key=lambda length: (abs(length - len(own)), length))
    penalty = 1.0 if len(own) >= closest else math.exp(1 - closest / len(own))
    return penalty * math.prod(precisions) ** (1 / len(precisions))


def test_self_bleu_against_its_definition():
    draw = np.random.default_rng(0)
    for _ in range(40):
        texts = [" ".join(draw.choice(list("abcde"), draw.integers(1, 14))) for _ in range(draw.integers(2, 6))]
        expected = np.mean([plain_bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)])
        assert diversity.self_bleu(texts) == pytest.approx(expected), texts


def test_self_bleu_of_texts_that_are_equal_or_have_nothing_in_common():
    assert diversity.self_bleu(["a b c d e"] * 3) == pytest.approx(1) == diversity.self_bleu(["42", "42", ""])
    assert diversity.self_bleu(["a b c d", "e f g h"]) == 0
    # Clipped: two of four words match, either way round, and no longer n-gram does.
    clipped = (2 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25
    assert diversity.self_bleu(["the the the the", "the cat saw the"]) == pytest.approx(clipped)
    short = diversity.self_bleu(["a b c d", "a b c d e f g h"])
    assert short == pytest.approx((math.exp(-1) + (4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25) / 2), "one is too short, the other goes beyond"
    assert diversity.self_bleu(["a b"]) is None is diversity.self_bleu(["a b", " "]) is diversity.self_bleu([])


def test_distinct_tokens_against_what_even_draws_would_give():
    ead = diversity.expectation_adjusted_distinct
    assert ead(3, 4, 10) == pytest.approx(3 / (10 * (1 - 0.9**4)))
    assert ead(1, 1, 50000) == pytest.approx(1) and ead(1, 9, 1) == 1 and ead(0, 0, 10) is None
    with pytest.raises(ValueError, match="at least one token"):
        ead(1, 1, 0)
    draw = np.random.default_rng(0)
    for total in (100, 1000, 20000):
        ids = draw.integers(0, 2000, total)
        assert ead(len(set(ids.tolist())), total, 2000) == pytest.approx(1, abs=0.05), "whatever the size of the corpus"


def plain_distance(left, right):
    table = {(i, 0): i for i in range(len(left) + 1)} | {(0, j): j for j in range(len(right) + 1)}
    for i, j in itertools.product(range(1, len(left) + 1), range(1, len(right) + 1)):
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (left[i - 1] != right[j - 1]))
    return table[len(left), len(right)]


def test_edit_distance_against_the_textbook():
    random = np.random.default_rng(3)
    for _ in range(200):
        left, right = (random.integers(0, 4, random.integers(0, 9)).tolist() for _ in range(2))
        assert gaps.edit_distance(left, right) == plain_distance(left, right)
    assert gaps.edit_distance("kitten", "sitting") == 3
    assert gaps.text_gap([], []) == 0 and gaps.text_gap([], ["a"]) == 1 and gaps.text_gap(["a", "b"], ["a", "c"]) == 0.5


def test_score_and_representation_gaps():
    assert gaps.score_gap(np.asarray([3.0, np.nan, 2.0]), np.asarray([1.0, 1.0, 2.0])) == 1.0
    assert gaps.score_gap(np.zeros(0), np.zeros(0)) is None and gaps.score_gap(np.asarray([np.nan]), np.asarray([1.0])) is None
    left, right = np.asarray([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), np.asarray([[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]])
    assert gaps.cosines(left, right)[:2] == pytest.approx([1.0, 0.0]) and math.isnan(gaps.cosines(left, right)[2])
    assert gaps.distances(left, right) == pytest.approx([0.0, math.sqrt(5), math.sqrt(2)])


# KL and entropy.


def test_kl_estimates_are_right_on_average_and_k3_is_never_negative():
    random = np.random.default_rng(4)
    p, q = random.dirichlet(np.ones(6)), random.dirichlet(np.ones(6))
    drawn = random.choice(6, 200_000, p=p)
    exact = (p * np.log(p / q)).sum()
    for estimate in (divergence.kl_k1_per_token, divergence.kl_k3_per_token):
        assert estimate(np.log(p[drawn]), np.log(q[drawn])) == pytest.approx(exact, rel=0.03)
    x = np.log(p) - np.log(q)
    assert divergence.kl_k3_per_token(np.log(p), np.log(q)) == pytest.approx(np.mean([math.exp(-each) - 1 + each for each in x]))
    assert all(divergence.kl_k3_per_token(np.log(p[i : i + 1]), np.log(q[i : i + 1])) >= 0 for i in range(6))
    assert divergence.kl_k1_per_sequence(np.asarray([-1.0, -2.0]), np.asarray([-2.0, -4.0]), 2) == 1.5
    none = np.zeros(0)
    assert divergence.kl_k1_per_token(none, none) is None and divergence.kl_k3_per_token(none, none) is None
    assert divergence.kl_k1_per_sequence(none, none, 0) is None and divergence.entropy_per_token(none) is None
    assert divergence.entropy_per_token(np.asarray([1.0, 3.0])) == 2.0


# Judges.


def test_cycles_by_brute_force():
    random = np.random.default_rng(5)
    for size in (0, 1, 2, 3, 5):
        wins = random.choice([0.2, 0.5, 0.8], (size, size))
        wins = np.triu(wins, 1) + np.tril(1 - wins.T, -1) + np.eye(size) / 2

        def beats(a, b, wins=wins):
            return wins[a][b] > 0.5

        circles = {frozenset(t) for t in itertools.permutations(range(size), 3) if beats(*t[:2]) and beats(*t[1:]) and beats(t[2], t[0])}
        assert judge_statistics.cycles(wins) == (len(circles), math.comb(size, 3))


def test_length_bias_ties_and_undecided():
    assert judge_statistics.longer_wins([1.0, 0.0, None, 1.0], [5, 3, 9, 3]) == (1.5, 2)  # equal lengths say nothing
    assert judge_statistics.longer_wins([1.0], [5]) == (0.0, 0) and judge_statistics.longer_wins([], []) == (0.0, 0)
    assert judge_statistics.flat([1.0, None]) is None and judge_statistics.flat([1.0, 1.0, None]) is True
    assert judge_statistics.flat([1.0, 2.0]) is False


def test_rank_correlation():
    assert judge_statistics.ranks(np.asarray([10, 30, 10, 20])).tolist() == [0.5, 3, 0.5, 2]
    assert judge_statistics.spearman(np.asarray([1, 2, 3, 4]), np.asarray([1, 4, 9, 16])) == pytest.approx(1)
    # 1 - 6 * sum d^2 / (n (n^2 - 1)) where nothing is tied.
    left, right = np.asarray([3, 1, 4, 2, 5]), np.asarray([2, 5, 1, 4, 3])
    assert judge_statistics.spearman(left, right) == pytest.approx(1 - 6 * ((left - right) ** 2).sum() / (5 * 24))
    for few in ([], [1.0], [2.0, 2.0]):
        assert judge_statistics.spearman(np.asarray(few), np.arange(len(few))) is None


def test_swap_test():
    assert judge_statistics.swap_test([]) is None
    always_first = judge_statistics.swap_test([("A", "A")] * 3)
    assert (always_first.consistency, always_first.bias) == (0, 1)
    half = judge_statistics.swap_test([("A", "tie"), ("tie", "tie")])
    assert (half.consistency, half.bias) == (0.5, 0)


def test_agreement():
    # Cohen's own kind of table: 20 yes-yes, 15 no-no, 5 and 10 disagreements give 0.4.
    left, right = "y" * 20 + "y" * 5 + "n" * 10 + "n" * 15, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert judge_statistics.cohen_kappa(left, right) == pytest.approx(0.4)
    assert judge_statistics.cohen_kappa("yy", "yy") is None and judge_statistics.cohen_kappa("", "") is None
    with pytest.raises(ValueError, match="as many labels"):
        judge_statistics.cohen_kappa("yy", "y")
    # Fleiss (1971) has no simpler check than the formula: three raters, two categories.
    counts = np.asarray([[3, 0], [2, 1], [0, 3], [1, 2]])
    agreed = np.mean([1, 1 / 3, 1, 1 / 3])
    assert judge_statistics.fleiss_kappa(counts) == pytest.approx((agreed - 0.5) / 0.5)
    assert judge_statistics.fleiss_kappa(np.zeros((0, 2))) is None and judge_statistics.fleiss_kappa(np.asarray([[1, 0]])) is None
    with pytest.raises(ValueError, match="same number of ratings"):
        judge_statistics.fleiss_kappa(np.asarray([[2, 0], [1, 2]]))


def test_calibration():
    assert judge_statistics.calibration_error(np.zeros(0), np.zeros(0)) is None
    assert judge_statistics.calibration_error(np.full(4, 0.75), np.asarray([1, 1, 1, 0])) == 0
    assert judge_statistics.calibration_error(np.asarray([1.0, 0.0]), np.asarray([0, 1])) == 1
    mixed = judge_statistics.calibration_error(np.asarray([0.9, 0.9, 0.2, 0.2]), np.asarray([1, 0, 0, 0]))
    assert mixed == pytest.approx((abs(0.9 - 0.5) * 2 + abs(0.2 - 0) * 2) / 4)


def test_matches_without_games_and_with_a_misspelt_verdict():
    assert matches.arena_hard([]) is None and matches.mt_bench([]).win_rate is None and matches.mt_bench([]).win_rate_adjusted is None
    assert matches.arena_hard_entries("A<<B", "A=B") == [1, 1, 1, 0.5]
    for wrong in ("A>A", "A", "tie", "A>>C"):
        with pytest.raises(ValueError, match="is no verdict"):
            matches.arena_hard([(wrong, "A=B")])


# Alarms.


def test_each_bound_alarms_on_its_own_side_alone():
    for name, bound in alarms.BOUNDS.items():
        bad, good = (bound.limit + 0.01, bound.limit - 0.01) if bound.above else (bound.limit - 0.01, bound.limit + 0.01)
        assert [text.split(":")[0] for text in alarms.alarms({name: bad})] == [name]
        assert alarms.alarms({name: good}) == [] == alarms.alarms({name: bound.limit}) == alarms.alarms({name: None})
        assert alarms.alarms({name: bad}, limits={name: bad}) == []


def test_displacement_is_both_sides_falling():
    chosen, rejected = "chosen_logratio_per_token_nats", "rejected_logratio_per_token_nats"
    both = {chosen: -0.1, rejected: -0.3}
    assert [text.split(":")[0] for text in alarms.alarms(both)] == [rejected]
    assert alarms.alarms({**both, chosen: 0.1}) == [] == alarms.alarms({chosen: -0.1})
    assert alarms.alarms(both, earlier=[{}, {chosen: -0.2, rejected: -0.2}]) == []  # the chosen recovers
    assert len(alarms.alarms(both, earlier=[{chosen: -0.05, rejected: -0.2}])) == 1


def test_a_judge_that_is_gamed_and_a_win_rate_made_of_length():
    def rounds(*pairs):
        return [{"raw_win_rate": judge, "gold_accuracy": gold} for judge, gold in pairs]

    *before, now = rounds((0.5, 0.6), (0.6, 0.5), (0.7, 0.4))
    assert [text.split(":")[0] for text in alarms.alarms(now, before)] == ["gold_accuracy"]
    assert alarms.alarms(now, before[1:]) == [] == alarms.alarms({**now, "gold_accuracy": 0.55}, before)
    assert alarms.alarms({**now, "gold_accuracy": None}, before) == [] == alarms.alarms({**now, "raw_win_rate": 0.6}, before)
    told = {"length_controlled_win_rate": 0.4, "raw_win_rate": 0.6}
    assert alarms.alarms({**told, "length_controlled_extreme": False}) == []
    assert "0.400 is far from the raw 0.600" in alarms.alarms({**told, "length_controlled_extreme": True})[0]
