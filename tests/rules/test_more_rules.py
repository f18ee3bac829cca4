"""Each rule against each sentence of its specification, ties and equalities included; filters; and joining tables by prompt."""

import json
from dataclasses import replace

import pytest

from judges import Group
from metrics import ngrams
from pipeline import rows
from pipeline.errors import Refusal
from pipeline.plugin import load
from rules import Pick
from tests.support.groups import judged
from tests.support.steps import build, candidates, table

DIGIT = {"p": "start/past", "a": "round-02/ahead", "g": "round-02/gold"}


def _group(scores, sources="", *, texts=None, id="x") -> Group:
    """`sources` is a letter for each response: p past, a ahead, g gold, anything else the present."""
    names = tuple(DIGIT.get(letter, "round-02/present") for letter in sources.ljust(len(scores), "."))
    texts = tuple(texts or (f"text number {i} of them all" for i in range(len(scores))))
    return judged(texts, ("stop",) * len(scores), names, tuple(scores), None, id)


def _choose(kind, group, seed=0, **settings):
    module = load("rules", kind)
    picks, reason = module.choose(module.Config(**settings), group, seed)
    assert bool(picks) == (reason is None)
    return [(pick.chosen, pick.rejected) for pick in picks] or reason


# tournament: INPO


def test_a_tournament_over_a_win_table():
    """Scores say nothing where there is a table; neighbours meet, and the pair stands only if the winner beats the loser."""

    def choose(beats, count=4):
        wins = [[0.5] * count for _ in range(count)]
        for i, j in beats:
            wins[i][j], wins[j][i] = 0.9, 0.1
        group = _group([float(i) for i in range(count)])
        group = replace(group, verdict=replace(group.verdict, wins=tuple(map(tuple, wins))))
        return _choose("tournament", group)

    bracket = [(1, 0), (2, 3), (1, 2), (0, 3)]
    assert choose([*bracket, (1, 3)]) == [(1, 3)]
    assert choose(bracket) == "upset", "a tie in the final"
    assert choose([*bracket, (3, 1)]) == "upset"
    assert choose([(1, 3), (0, 2)]) == "upset", "first of all ties: 0 wins, 3 loses, and they tie"
    assert choose([(0, 3)]) == [(0, 3)]


@pytest.mark.parametrize(
    "scores, expected",
    [((1.0, 3.0, 2.0), [(1, 0)]), ((1.0, 1.0), "upset"), ((1.0, None), "undecided"), ((1.0,), "single"), ((0.5,) * 8, "upset"),
     ((0.5, 1.0, 1 / 3, 0.5, 0.5, 2 / 3, 0.0, 0.5), [(1, 6)])],
)  # fmt: skip
def test_a_tournament_without_a_table_goes_by_scores(scores, expected):
    assert _choose("tournament", _group(scores)) == expected


# margin: DNO


def _dno(scores, sources="....  g", **settings):
    return _choose("margin", _group(scores, sources), teacher="gold", **settings)


def test_dnos_golden_example():
    """Five samples and the gold answer: student over teacher, teacher over student, student over student, all of them kept."""
    expected = [[0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [1, 2], [1, 3], [4, 2], [4, 3], [5, 3]]
    assert [list(pick) for pick in _dno((6, 5, 4, 3, 5, 5), ".....g")] == expected


@pytest.mark.parametrize(
    "scores, sources, expected",
    [
        ((5.0, 4.0), "g.", "gap"),  # a teacher's lead of 1 is not enough
        ((5.0, 3.0), "g.", [(0, 1)]),  # of 2 it is
        ((5.0, 3.01), "g.", "gap"),
        ((4.0, 5.0), "g.", [(1, 0)]),  # the student's own lead of 1 is
        ((5.0, 5.0), "g.", "gap"),  # an equality is no lead
        ((4.01, 5.0), "g.", "gap"),
        ((4.99, 1.0, 1.0), "..g", "no_positive"),  # a positive scores at least 5
        ((5.0, 1.0, 1.0), "..g", [(0, 1), (0, 2)]),
        ((2.0, 4.9, 1.0), "..g", "no_positive"),
        ((None, 5.0, 4.0), "g..", [(1, 2)]),  # an undecided teacher is passed over
        ((6.0, None, None), "g..", "undecided"),
    ],
)
def test_dnos_thresholds(scores, sources, expected):
    assert _dno(scores, sources) == expected


def test_a_gap_of_sampled_means_is_not_lost_in_binary():
    assert 8.2 - 7.2 < 1
    assert _dno((8.2, 7.2, 1.0), "..g") == [(0, 1), (0, 2), (1, 2)]


def test_without_a_teacher_all_gaps_are_the_policys_own():
    assert _choose("margin", _group((6, 5, 4))) == [(0, 1), (0, 2), (1, 2)]


def test_a_repetitive_response_is_a_negative_whatever_its_score():
    loop = "again and again and again and again and again and again and again"
    group = _group((6.0, 5.0, None), "..g", texts=(loop, "a good answer", loop))
    assert _choose("margin", group, teacher="gold", repetitive=0.5) == [(1, 0), (1, 2)]
    assert _choose("margin", group, teacher="gold") == [(0, 1)]


def test_a_teacher_that_made_nothing_is_a_slip():
    with pytest.raises(Refusal, match=r"rule margin: of the 2 responses to 'x', 0 come from 'golden' \(sources: round-02/present\)"):
        _choose("margin", _group((6, 5)), teacher="golden")
    with pytest.raises(Refusal, match="2 come from 'gold'.*some of them and not all"):
        _choose("margin", _group((6, 5), "gg"), teacher="gold")


# anchored and future_guided: Temporal Self-Rewarding


@pytest.mark.parametrize(
    "scores, sources, expected",
    [
        ((1, 2, 3, 4), "pp..", [(3, 0)]),  # the past's worst is strictly below the present's worst: it is rejected
        ((3, 9, 3, 4), "pp..", [(3, 2)]),  # equal worsts: the present's own
        ((3.5, 9, 3, 4), "pp..", [(3, 2)]),  # the past's is better: the present's own
        ((9, 1, 3, 4), "pp..", [(3, 1)]),  # the past's best is never chosen, however good
        ((9, 4, 4, 4), "pp..", "tie"),  # chosen and rejected are equal: no pair
        ((3, 9, 4, 4), "pp..", [(2, 0)]),  # a tie among the present's is none against the past's worst; the first of equals is chosen
        ((1, 1, 4, 2), "pp..", [(2, 0)]),  # the first of equally bad ones is rejected
        ((None, None, 4, 2), "pp..", [(2, 3)]),  # nothing known of the past
        ((None, 1, None, 2), "pp..", [(3, 1)]),
        ((1, 2, None, None), "pp..", "undecided"),  # nothing known of the present
        ((None, None, 4, None), "pp..", "undecided"),
        ((5, None, 4, None), "pp..", "tie"),  # one known response, which would be rejected for itself
    ],
)
def test_temporals_first_phase(scores, sources, expected):
    assert _choose("anchored", _group(scores, sources), past="past") == expected


def test_in_round_one_the_first_phase_is_plain_self_rewarding():
    for scores in ((1, 5, 3), (2, 2, 2), (4, 4, 1), (None, 3, 1)):
        assert _choose("anchored", _group(scores)) == _choose("best_vs_worst", _group(scores))


@pytest.mark.parametrize(
    "scores, sources, expected",
    [
        ((1, 2, 3, 4, 5, 6), "pp..aa", [(5, 0)]),  # the future's best is strictly above the present's best: it is chosen
        ((1, 2, 3, 4, 4, 4), "pp..aa", [(3, 0)]),  # equal bests: phase 1's stays
        ((1, 2, 3, 4, 2, 3.9), "pp..aa", [(3, 0)]),
        ((1, 2, 3, 4, 0, 9), "pp..aa", [(5, 0)]),  # the future's worst is never rejected
        ((3, 3, 3, 3, 5, 1), "pp..aa", [(4, 2)]),  # no pair in phase 1, one here
        ((3, 3, 3, 3, 3, 3), "pp..aa", "tie"),
        ((9, 9, 3, 3, 2, 3), "pp..aa", "tie"),
        ((1, 2, 3, 4, None, None), "pp..aa", [(3, 0)]),
        ((None, None, 3, None, 4, None), "pp..aa", [(4, 2)]),
        ((1, 2, None, None, 4, 5), "pp..aa", "undecided"),  # without a present there is no bar to beat
    ],
)
def test_temporals_second_phase(scores, sources, expected):
    assert _choose("future_guided", _group(scores, sources), past="past", ahead="ahead") == expected


def test_the_second_phase_keeps_the_first_ones_rejected_response():
    """Over all scores of {1, 2, 3} for two of each: what the specification's steps 3 to 11 say, written out again."""
    from itertools import product

    for scores in product((1, 2, 3), repeat=6):
        s0, si, sf = scores[:2], scores[2:4], scores[4:]
        group = _group(scores, "pp..aa")
        chosen1 = 2 + si.index(max(si))
        rejected = s0.index(min(s0)) if min(s0) < min(si) else 2 + si.index(min(si))
        d1 = [(chosen1, rejected)] if scores[chosen1] > scores[rejected] else "tie"
        chosen2 = 4 + sf.index(max(sf)) if max(sf) > max(si) else chosen1
        d2 = [(chosen2, rejected)] if scores[chosen2] > scores[rejected] else "tie"
        first = judged(group.responses[:4], group.finish_reasons[:4], group.sources[:4], group.verdict.scores[:4])
        assert _choose("anchored", first, past="past") == d1
        assert _choose("future_guided", group, past="past", ahead="ahead") == d2


def test_a_past_that_is_not_there_is_a_slip_and_no_plain_self_rewarding():
    with pytest.raises(Refusal, match="rule anchored: of the 2 responses to 'x', 0 come from 'past'"):
        _choose("anchored", _group((1, 2)), past="past")
    with pytest.raises(Refusal, match="rule future_guided: of the 2 responses to 'x', 0 come from 'ahead'"):
        _choose("future_guided", _group((1, 2)), ahead="ahead")


# length_tiers: Meta-Rewarding


def _tiers(scores, lengths, rho):
    return _choose("length_tiers", _group(scores, texts=["x" * n for n in lengths]), rho=rho)


@pytest.mark.parametrize(
    "scores, lengths, rho, expected",
    [
        ((5, 4, 1, 0), (9, 3, 3, 9), 0.0, [(0, 3)]),  # rho 0 is the best and the worst
        ((5, 4, 1, 0), (9, 3, 9, 3), 0.2, [(1, 2)]),  # the shortest at the top, the longest at the bottom; both ends closed
        ((5, 4, 1, 0), (9, 3, 9, 3), 0.19, [(0, 3)]),
        ((5, 3.4, 0), (9, 3, 3), 0.32, [(1, 2)]),  # (1 - 0.32) * 5 is 3.4 and not 3.4000000000000004
        ((5, 0, 1.6), (3, 3, 9), 0.32, [(0, 2)]),
        ((5, 5, 0, 0), (3, 9, 9, 3), 0.0, [(0, 2)]),  # among equal bests the shortest, among equal worsts the longest
        ((4, 5, 0, 1), (3, 3, 9, 9), 0.2, [(1, 2)]),  # equally long: the better, the worse
        ((5, 5, 0, 0), (3, 3, 9, 9), 0.0, [(0, 2)]),  # and then the first
        ((3, 3, 3), (1, 2, 3), 0.4, "tie"),
        ((None, 3), (1, 2), 0.4, "undecided"),
    ],
)
def test_length_tiers(scores, lengths, rho, expected):
    assert _tiers(scores, lengths, rho) == expected


def test_tiers_never_overlap():
    with pytest.raises(ValueError, match="less than 0.5"):
        load("rules", "length_tiers").Config(rho=0.5)
    assert _tiers((5, 2.5, 0), (9, 1, 1), 0.49) == [(0, 2)]


# ranked, all_above, random_rejected


@pytest.mark.parametrize(
    "scheme, scores, expected",
    [
        ("mirrored", (1, 4, 2, 3), [(1, 0), (3, 2)]),
        ("mirrored", (1, 4, 2), [(1, 0)]),  # the one in the middle has no counterpart
        ("mirrored", (1, 4, 1, 4, 2, 2), [(1, 2), (3, 0)]),  # equal ones in their order; the pair of 2 and 2 is left out
        ("adjacent", (1, 4, 2, 2), [(1, 2), (3, 0)]),
        ("best_vs_rest", (4, 4, 2, None), [(0, 2)]),
        ("all", (1, 4, 2), [(1, 2), (1, 0), (2, 0)]),
        ("all", (2, 2), "tie"),
    ],
)
def test_ranked(scheme, scores, expected):
    assert _choose("ranked", _group(scores), scheme=scheme) == expected


@pytest.mark.parametrize(
    "settings, scores, expected",
    [
        ({}, (1, 3, 2), [(1, 2), (1, 0), (2, 0)]),
        ({"min_gap": 2}, (1, 3, 2), [(1, 0)]),  # a gap of exactly 2 is enough
        ({"min_gap": 2.01}, (1, 3, 2), "gap"),
        ({"min_chosen": 3}, (1, 3, 2), [(1, 2), (1, 0)]),
        ({"min_chosen": 3.5}, (1, 3, 2), "no_positive"),
        ({}, (2, 2, None), "tie"),
        ({"min_gap": 0}, (2, 2, 1), [(0, 2), (1, 2)]),  # equal scores never make a pair
    ],
)
def test_all_above(settings, scores, expected):
    assert _choose("all_above", _group(scores), **settings) == expected


def test_a_random_rejected_response_scores_less_and_hangs_on_seed_and_id_alone():
    def drawn(seed, id):
        return _choose("random_rejected", _group((5, 1, 5, 2, 3, None), id=id), seed)

    found = {drawn(7, f"p{i}")[0] for i in range(200)}
    assert found == {(0, 1), (0, 3), (0, 4)}, "the first best against each of those below it, never against the equal one"
    assert all(drawn(7, f"p{i}") == drawn(7, f"p{i}") for i in range(20))
    assert [drawn(7, f"p{i}") for i in range(20)] != [drawn(8, f"p{i}") for i in range(20)]
    assert _choose("random_rejected", _group((2, 2))) == "tie"


# filters


def test_repetition_and_similarity():
    plain = "one two three four five six seven eight nine ten"
    assert ngrams.repeated(plain) == 0 == ngrams.repeated("") == ngrams.repeated("no no no")
    assert ngrams.repeated("ha " * 40) == 1 - 1 / 37
    assert ngrams.repeated("哈" * 40) > 0.9, "a language without spaces repeats characters"
    assert ngrams.similarity(plain, plain.replace(" ", "  ")) == 1.0
    assert ngrams.similarity(plain, plain + " eleven") == 7 / 8
    assert ngrams.similarity("ha " * 40, "ha " * 41) < 1.0
    assert ngrams.similarity(plain, "nothing of the kind") == 0.0 == ngrams.similarity("", "a")
    assert ngrams.similarity("", "") == 1.0


WORDS = "the quick brown fox jumps over the lazy dog and runs far away"


@pytest.mark.parametrize(
    "settings, chosen, rejected, reason",
    [
        ({"near_duplicate": 1}, WORDS, WORDS + "\n", "near_duplicate"),
        ({"near_duplicate": 1}, WORDS, WORDS + "!", None),
        ({"near_duplicate": 0.8}, WORDS, WORDS + "!", "near_duplicate"),
        ({"repetitive": 0.5}, "so " * 20, WORDS, "repetitive"),
        ({"repetitive": 0.5}, WORDS, "so " * 20, None),  # a rejected one may repeat itself
        ({"max_chosen_characters": len(WORDS) - 1}, WORDS, "no", "long_chosen"),
        ({"max_chosen_characters": len(WORDS)}, WORDS, "no", None),
        ({"max_length_ratio": 2}, "x" * 20, "y" * 10, None),
        ({"max_length_ratio": 2}, "x" * 21, "y" * 10, "length_ratio"),
    ],
)
def test_the_pair_stage_filters_and_counts(tmp_path, settings, chosen, rejected, reason):
    row = {**candidates({"a": [chosen, rejected]})[0], "scores": [1.0, 0.0], "wins": None}
    other = {**candidates({"b": ["yes", "not"]})[0], "scores": [1.0, 0.0], "wins": None}
    judged = table(tmp_path / "judged", "judged", [row, other])
    facts = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst", **settings}, {"judged": judged}).manifest.facts
    assert rows.read(tmp_path / "pairs")["prompt_id"].to_pylist() == (["a", "b"] if reason is None else ["b"])
    assert facts["paired"] + sum(facts["dropped"].values()) == facts["groups"] == 2
    assert facts["dropped"] == facts.get("filtered", {}) == ({reason: 1} if reason else {})


def test_of_several_pairs_of_a_group_those_that_pass_stay(tmp_path):
    row = {**candidates({"a": [WORDS, "a short one", WORDS]})[0], "scores": [3.0, 2.0, 1.0], "wins": None}
    judged = table(tmp_path / "judged", "judged", [row])
    made = build(tmp_path / "pairs", "pair", {"rule": "all_above", "near_duplicate": 1}, {"judged": judged})
    assert rows.read(made.path)["id"].to_pylist() == ["a.01.0-1", "a.01.1-2"]
    assert made.manifest.facts["filtered"] == {"near_duplicate": 1} and made.manifest.facts["dropped"] == {}


# joining


def _made(path, texts, source, tokenizer="test", meta=None, tokens=True):
    made = candidates(texts)
    for row in made:
        row |= {"tokenizer": tokenizer, "meta": meta or {}}
        row["responses"] = [{**each, "source": source, "token_ids": each["token_ids"] if tokens else None} for each in row["responses"]]
        if not tokens:
            row["prompt_token_ids"] = None
    return table(path, "candidates", made)


def test_candidates_are_joined_by_prompt(tmp_path):
    past = _made(tmp_path / "past", {"c": ["p", "pp"], "a": ["ppp", ""], "b": ["p"]}, "start/past", meta={"answer": "1"})
    present = _made(tmp_path / "present", {"b": ["n", "nn"], "c": [], "a": ["nnnn"]}, "round-02/present", meta={"answer": "2", "b": 3})
    judged = build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": [past, present]}, rows_per_shard=2)
    found = {row["id"]: row for row in rows.read(judged.path).to_pylist()}
    assert list(found) == ["c", "a", "b"], "the rows of the first table, in its order"
    assert found["a"]["scores"] == [3, 0, 4] and found["c"]["scores"] == [1, 2] and found["b"]["scores"] == [1, 1, 2]
    assert [r["source"] for r in found["b"]["responses"]] == ["start/past", "round-02/present", "round-02/present"]
    assert [r["token_ids"] for r in found["a"]["responses"]] == [[112] * 3, [], [110] * 4]
    assert json.loads(found["a"]["meta"]) == {"answer": "1", "b": 3} and judged.manifest.facts["responses"] == 8
    again = build(tmp_path / "again", "judge", {"judge": "length"}, {"candidates": [past, present]}, rows_per_shard=100)
    assert again.manifest.digest == judged.manifest.digest


def test_one_table_is_itself(tmp_path):
    one = _made(tmp_path / "one", {"a": ["x", "xx"]}, "s")
    alone = build(tmp_path / "alone", "judge", {"judge": "length"}, {"candidates": one})
    twice = build(tmp_path / "twice", "judge", {"judge": "length"}, {"candidates": [one, one]})
    assert alone.manifest.digest == twice.manifest.digest and rows.read(twice.path)["scores"].to_pylist() == [[1, 2]]


def test_the_prompts_asked_for_and_no_others(tmp_path):
    past = _made(tmp_path / "past", {f"{i:04d}": ["p" * (i % 5)] for i in range(2500)}, "start/past")
    ids = [f"{i:04d}" for i in range(2499, 0, -2)]
    prompts = table(tmp_path / "prompts", "prompts", [{"id": i, "prompt": [], "meta": {}} for i in ids])
    judged = build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": past, "prompts": prompts})
    found = rows.read(judged.path)
    assert found["id"].to_pylist() == ids and found["scores"].to_pylist() == [[int(i) % 5] for i in ids]


def test_tables_of_other_prompts_are_refused(tmp_path):
    past = _made(tmp_path / "past", {"a": ["p"], "b": ["p"]}, "start/past")
    present = _made(tmp_path / "present", {"b": ["n"], "c": ["n"]}, "round-02/present")
    with pytest.raises(Refusal, match="present lacks 1 of the 2 prompts asked for, such as 'a', and has 1 others"):
        build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": [past, present]})
    prompts = table(tmp_path / "prompts", "prompts", [{"id": "c", "prompt": [], "meta": {}}])
    with pytest.raises(Refusal, match="past lacks 1 of the 1 prompts asked for, such as 'c', and has 0 others"):
        build(tmp_path / "chosen", "judge", {"judge": "length"}, {"candidates": [past, present], "prompts": prompts})


def test_a_teachers_answers_have_no_token_ids_of_ours(tmp_path):
    ours = _made(tmp_path / "ours", {"a": ["nn"]}, "round-01/candidates", tokenizer="mine")
    gold = _made(tmp_path / "gold", {"a": ["gg"]}, "demonstration", tokenizer=None, tokens=False)
    other = _made(tmp_path / "other", {"a": ["oo"]}, "start/teacher", tokenizer="theirs")
    judged = build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": [gold, ours, other]})
    (row,) = rows.read(judged.path).to_pylist()
    assert (row["tokenizer"], row["prompt_token_ids"]) == ("mine", [1, 2, 3])
    assert [r["token_ids"] for r in row["responses"]] == [None, [110, 110], None]
    assert [r["text"] for r in row["responses"]] == ["gg", "nn", "oo"]


def test_judged_tables_are_joined_for_pairing(tmp_path):
    """Temporal's second phase: phase 1's scores and the future's, each judged once."""
    past = _made(tmp_path / "past", {"a": ["p"], "b": ["pp"]}, "start/past")
    present = _made(tmp_path / "present", {"a": ["nn", "nnn"], "b": ["n", "nn"]}, "round-02/present")
    ahead = _made(tmp_path / "ahead", {"b": ["a"], "a": ["aaaa"]}, "round-02/ahead")
    first = build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": [past, present]})
    later = build(tmp_path / "later", "judge", {"judge": "length"}, {"candidates": ahead})
    rule = {"kind": "future_guided", "past": "past", "ahead": "ahead"}
    pairs = build(tmp_path / "pairs", "pair", {"rule": rule}, {"judged": [first, later]}, round=2)
    found = rows.read(pairs.path).to_pylist()
    assert [(p["id"], p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in found] == [
        ("a.02.3-0", "aaaa", "p"), ("b.02.2-1", "nn", "n"),
    ]  # fmt: skip
    assert [(p["chosen_score"], p["rejected_score"], p["label"]) for p in found] == [(4, 1, None), (2, 1, None)]
    draft = build(tmp_path / "draft", "pair", {"rule": {"kind": "anchored", "past": "past"}}, {"judged": first}, round=2)
    assert [p["chosen"][0]["content"] for p in rows.read(draft.path).to_pylist()] == ["nnn", "nn"]


def test_a_pick_is_a_pick():
    assert Pick(0, 1) != Pick(1, 0)
