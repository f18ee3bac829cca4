"""Judges that are language models: known answers from a scripted grader, and the costs and facts around them (pairs: test_pairwise.py).

The scripted grader (tests/support/plugins/grader.py) counts facts about Paris: 0 to 5.
"""

import math

import pytest

from judges import Group, _grammar, _prompts, anchor, ensemble, pairwise, rubric, uses
from pipeline import plugin, recipe, rows
from pipeline.errors import Refusal
from pipeline.plan import plan
from tests.support.core import profile
from tests.support.judging import ASKED, EIGHT, FACTS, GRADER, GROUP, judge, shown, verdict_of
from tests.support.plugins.grader import shared
from tests.support.steps import build, candidates, folder, table

# the grammar


@pytest.mark.parametrize(
    "text, score",
    [
        ("Score: 4", 4), ("fine.\nscore: 4.5", 4.5), ("**Score:** 4/5", 4), ("Score: 4 / 5.", 4), ("SCORE = 3", 3),
        ("Score: 4 out of 5", 4),
        ("Score: 2\nOn reflection,\nScore: 4", 4), ("> **Score: 4**", 4), ("Final score: 4 points", 4), ('"score": 4,', 4),
        ("Score\uff1a4", 4),
        ("Score: [[4]]", 4), ("Score: 0", 0), ("total \u2014 score: 5\n\n", 5), ("Score: 4\nIt is good.", 4),
        ("Score: 6", None), ("Score: -1", None), ("Score: 4/10", None), ("Score: 4 or 5", None), ("Score: 4-5", None),
        ("Score: four", None),
        ("Score: 4th", None), ("4", None), ("", None), ("Score: 3\nScore: unclear", None), ("underscore: 4", None), ("Score: 1e1", None),
        ("Score: NaN", None), ("Score (quoted) 5", None), ("Score:\n4", None), ("Score: 4.5.2", None), ("Score: 99999999999", None),
    ],
)  # fmt: skip
def test_the_last_wellformed_score_counts(text, score):
    assert _grammar.score(text, 0, 5) == score


@pytest.mark.parametrize(
    "text, choice",
    [
        ("Verdict: A", 1), ("verdict: b.", 0), ("Verdict: A\nNo,\n**Verdict: B**", 0), ("Verdict: response A", 1), ("Verdict: [[B]]", 0),
        ("Verdict: A or B", None), ("Verdict: C", None), ("A", None), ("Verdict: tie", None), ("Verdict: A\nVerdict: neither", None),
        ("Verdict: Apples", None),
    ],
)  # fmt: skip
def test_the_last_wellformed_choice_counts(text, choice):
    assert _grammar.choice(text) == choice


def test_scores_by_id():
    text = '{"id1_justification": "id2_score: 9", "id1_score": 3,\n"id2_score": "5",\nid3_score: 7\nid11_score: 1}'
    assert _grammar.scores(text, 4, 0, 6) == [3, 5, None, None]


# rubric


def test_rubric_grades_and_keeps_what_was_said(tmp_path):
    verdict, engine = judge(tmp_path, {"kind": "rubric"}, [GROUP], engine=True)
    (verdict,) = verdict
    assert verdict.scores == (1, 2, 3, 4, 0)
    assert verdict.wins[3] == (1, 1, 1, 0.5, 1)
    assert verdict.detail["samples"][3] == [4, 4, 4] and verdict.detail["variance"] == [0] * 5
    assert verdict.detail["texts"][0][0] == "It has merits.\nScore: 1"
    assert verdict.tally["calls_per_prompt"] == (5, 1) and verdict.tally["sample_agreement"] == (15, 15)
    assert [request.n for request in engine.asked] == [3] * 5
    assert len({request.seed for request in engine.asked}) == 5


def test_samples_are_averaged(tmp_path):
    settings = {"kind": "rubric", "samples": 40, "temperature": 1.0}
    verdict = verdict_of(tmp_path, settings, Group("g", ASKED, (FACTS[2],), {}), grader={"noise": 2})
    samples = verdict.detail["samples"][0]
    assert len(set(samples)) > 2 and verdict.scores[0] == pytest.approx(sum(samples) / 40)
    assert 0 < verdict.tally["sample_agreement"][0] < verdict.tally["sample_agreement"][1] == 40 * 39 / 2


def test_what_cannot_be_read_is_asked_again_and_then_undecided(tmp_path):
    settings = {"kind": "rubric", "samples": 2}
    patient, engine = judge(tmp_path / "a", {**settings, "retries": 8}, [GROUP], grader={"mumbles": 0.5}, engine=True)
    assert patient[0].scores == (1, 2, 3, 4, 0)
    failed, asked = patient[0].tally["parse_failures"]
    assert 0 < failed < asked == sum(request.n for request in engine.asked)
    assert len({request.seed for request in engine.asked}) == len(engine.asked), "another seed each time"
    never = verdict_of(tmp_path / "b", settings, grader={"mumbles": 1})
    assert never.scores == (None,) * 5 and never.wins is None
    assert never.tally["parse_failures"] == (2 * 5 * 3, 2 * 5 * 3)
    lone = verdict_of(tmp_path / "c", {**settings, "samples": 9, "min_readable": 9, "retries": 0}, grader={"mumbles": 0.3})
    assert None in lone.scores and lone.detail["samples"][0], "some were readable, and too few"


def test_a_judgement_cut_off_is_not_read(tmp_path):
    from judges import _asking
    from tests.support.steps import tools

    class Cut:
        def complete(self, requests):
            from engines import Completion, Response

            return [Completion((1,), (Response("fine\nScore: 4", (1,), (-1.0,), "length"),)) for _ in requests]

    how = _asking.Sampling(1, 1, 0, 1.0, 1.0, 9)
    (answers,) = _asking.sample(Cut(), ["q"], lambda _, text: _grammar.score(text, 0, 5), how, tools(tmp_path / "x"))
    assert answers.values == [] and answers.texts == ["fine\nScore: 4"]


def test_the_expected_score_is_the_sum_over_the_options(tmp_path):
    verdict, engine = judge(tmp_path, {"kind": "rubric", "read": "probabilities"}, [GROUP], engine=True)
    for score, facts in zip(verdict[0].scores, (1, 2, 3, 4, 0), strict=True):
        weights = [math.exp(-abs(value - facts)) for value in range(6)]
        assert score == pytest.approx(sum(value * weight for value, weight in enumerate(weights)) / sum(weights))
    assert engine.asked[0].options == ("0", " 0", "1", " 1", "2", " 2", "3", " 3", "4", " 4", "5", " 5")
    assert verdict[0].tally["option_mass"] == pytest.approx((4.5, 5))
    strict = verdict_of(tmp_path / "strict", {"kind": "rubric", "read": "probabilities", "min_mass": 0.95})
    assert strict.scores == (None,) * 5, "most of the probability is elsewhere"


def test_a_rubric_of_ones_own(tmp_path):
    body = {"kind": "rubric", "rubric": "Count the facts, {low} to {high}.\nNothing else.", "scores": [1, 3]}
    verdict, engine = judge(tmp_path, body, [GROUP], engine=True)
    assert verdict[0].scores == (1, 2, 3, 3, 1)
    assert engine.asked[0].messages[0]["content"].startswith("Count the facts, 1 to 3.\nNothing else.\n")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"kind": "rubric", "rubric": "additive-six"}, "no rubric 'additive-six'; did you mean"),
        ({"kind": "rubric", "rubric": "one two"}, "a rubric of your own needs its range; add `scores"),
        ({"kind": "rubric", "scores": [5, 0]}, "scores: 5 to 0 is no range"),
        ({"kind": "rubric", "scores": [0, 10], "read": "probabilities"}, "needs scores of one digit"),
        ({"kind": "rubric", "min_readable": 4}, "min_readable 4 cannot be reached with samples 3"),
        ({"kind": "rubric", "temperature": 0}, "temperature 0 would give the same judgement 3 times"),
        ({"kind": "pairwise", "mode": "strict", "samples": 3, "temperature": 0}, "temperature 0 would give the same verdict 3 times"),
        ({"kind": "joint", "min_readable": 2}, "min_readable 2 cannot be reached with samples 1"),
        ({"kind": "anchor", "judge": "length"}, "needs `source`"),
        ({"kind": "anchor", "judge": "length", "source": "a", "meta": "b"}, "and not both"),
        ({"kind": "anchor", "judge": "lenght", "meta": "b"}, "did you mean 'length'"),
        ({"kind": "ensemble", "judges": ["length"]}, "judges: tuple should have at least 2 items"),
        ({"kind": "ensemble", "judges": ["length", "lenght"]}, "did you mean 'length'"),
        ({"kind": "ensemble", "judges": ["length", "similarity"], "weights": [1]}, "one positive number for each of the 2 judges"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    needs_model = settings["kind"] in ("rubric", "pairwise", "joint")
    with pytest.raises(ValueError, match=".") as refused:
        plugin.parse("judges", {**settings, **({"model": "m"} if needs_model else {})})
    assert sentence in str(refused.value)


# anchor, joint, ensemble


@pytest.mark.parametrize(
    "inner, calls, scores",
    [
        ({"kind": "rubric"}, 5, (1, 2, 3, 4, 0)),
        ({"kind": "pairwise", "mode": "strict"}, 8, (0.5, 0.5, 0.5, 0.5, 0)),
        ({"kind": "joint"}, 1, (1, 2, 3, 4, 0)),
    ],
)
def test_an_anchor_by_its_source(inner, calls, scores, tmp_path):
    """The past policy's response, found by its node or its address, under any judge."""
    for name in ("past", "start/past"):
        verdicts, engine = judge(tmp_path / name, {"kind": "anchor", "judge": inner, "source": name}, [GROUP], engine=True)
        assert verdicts[0].scores == scores and len(engine.asked) == calls
        assert verdicts[0].detail["anchor"] == 4 and verdicts[0].tally["ahead_of_anchor"] == (4, 4)


def test_an_anchor_from_the_prompts_meta(tmp_path):
    group = Group("g", ASKED, FACTS, {"gold": "Paris, the capital of France"})
    settings = {"kind": "anchor", "judge": {"kind": "pairwise"}, "meta": "gold", "by": "win_rate"}
    verdicts, engine = judge(tmp_path / "a", settings, [group, Group("none", ASKED, ("a", "b"), {})], engine=True)
    assert len(engine.asked) == 2 * 5 and verdicts[1].scores == (None, None) and verdicts[1].tally == {"without_anchor": (1, 1)}
    assert verdicts[0].scores[2] == pytest.approx(0.5, abs=0.13) and verdicts[0].scores[3] > 0.8 > 0.2 > verdicts[0].scores[0]
    assert len(verdicts[0].wins) == 5 and verdicts[0].detail["anchor"] is None
    plain = verdict_of(tmp_path / "b", {"kind": "anchor", "judge": {"kind": "rubric"}, "meta": "gold"}, group)
    assert plain.scores == (-2, -1, 0, 1, -3) and plain.detail["anchor_score"] == 3
    assert plain.tally["anchor_overlap"] == (0, 1)
    copied = verdict_of(
        tmp_path / "c",
        {"kind": "anchor", "judge": {"kind": "rubric"}, "meta": "gold"},
        Group("g", ASKED, ("Paris, the capital of France.",), group.meta),
    )
    assert copied.tally["anchor_overlap"] == (0.5, 1), "one of its two runs of four words"


def test_joint_grades_all_at_once_in_changing_orders(tmp_path):
    group = Group("g", ASKED, (*FACTS, FACTS[0]), {"gold": "Paris, the capital of France"})
    verdicts, engine = judge(tmp_path, {"kind": "joint", "samples": 6, "anchor": "gold"}, [group], engine=True)
    (verdict,) = verdicts
    assert verdict.scores == (1, 2, 3, 4, 0, 1) and verdict.detail["anchor_score"] == 3
    assert len(engine.asked) == 6 and all(len(shown(request)) == 6 for request in engine.asked), "equal texts are shown once"
    assert len({tuple(shown(request)) for request in engine.asked}) > 3
    assert verdict.tally["position_rate"][1] == 6 * (15 - 1), "pairs with different scores: not (3, gold)"
    backwards = judge(tmp_path / "b", {"kind": "joint", "samples": 6}, [Group("g", ASKED, FACTS[::-1], {})])[0]
    assert backwards.scores == (0, 4, 3, 2, 1)


def test_an_ensemble_by_mean_and_vote(tmp_path):
    """Length and facts disagree about one response: the longest says nothing."""
    texts = ("Paris", "Paris, capital of France", "no idea at all, none, not the least bit")
    body = {"kind": "ensemble", "judges": [{"kind": "rubric"}, "length", {"kind": "pairwise", "mode": "strict"}]}
    group = Group("g", ASKED, texts, {})
    mean = verdict_of(tmp_path / "mean", body, group)
    assert mean.scores == pytest.approx(((0.5 + 0 + 0.5) / 3, (1 + 0.5 + 1) / 3, (0 + 1 + 0) / 3))
    assert mean.wins[1] == pytest.approx((1, 0.5, 2 / 3))
    assert mean.detail["judges"][1]["scores"] == [float(len(text)) for text in texts] and mean.tally["judge_agreement"] == (1, 3)
    assert mean.tally["judges.0.calls_per_prompt"] == (3, 1) and mean.tally["judges.2.calls_per_prompt"] == (6, 1)
    vote = verdict_of(tmp_path / "vote", {**body, "combine": "vote", "weights": [1, 3, 1]}, group)
    assert vote.wins[2] == pytest.approx((0.6, 0.6, 0.5)) and vote.scores == pytest.approx((0.2, 0.7, 0.6))
    wary = verdict_of(tmp_path / "wary", {**body, "max_spread": 0.3}, group)
    assert wary.scores[2] is None and None not in wary.scores[:2] and wary.wins is None
    missing = ensemble.ranks((3.0, None, 1.0, 3.0))
    assert missing == (0.75, None, 0.0, 0.75)


def test_two_equal_judges_of_an_ensemble_draw_differently(tmp_path):
    body = {"kind": "ensemble", "judges": [{"kind": "rubric", "samples": 9}] * 2}
    verdict = verdict_of(tmp_path, body, Group("g", ASKED, (FACTS[2],), {}), grader={"noise": 2})
    one, other = (each["detail"]["samples"] for each in verdict.detail["judges"])
    assert one != other


def test_nested_judges_are_planned_and_find_their_models(tmp_path):
    """Slots of judges within judges: `judge.judges.1.judge.model`; keys follow what each of them reads."""
    inner = {"kind": "anchor", "source": "past", "judge": {"kind": "pairwise", "model": "b"}}
    body = {
        "name": "nested",
        "rounds": 1,
        "start": {
            **{name: {"stage": "adopt", "model": str(tmp_path)} for name in "ab"},
            "prompts": {"stage": "tests.support.plugins.words"},
            "past": {"stage": "generate", "model": "a", "prompts": "prompts", "n": 2},
            "judged": {
                "stage": "judge",
                "candidates": "past",
                "judge": {"kind": "ensemble", "judges": [{"kind": "rubric", "model": "a"}, inner]},
            },
        },
        "round": {},
    }
    step = {each.address: each for each in plan(recipe.make(body, "test"), profile())}["start/judged"]
    assert step.inputs["judge.judges.0.model"] == ("start/a",) and step.inputs["judge.judges.1.judge.model"] == ("start/b",)
    assert step.uses == {"engine"} and step.identity["scripted"]
    assert step.identity["settings"]["judge"]["judges"][1]["judge"] == {"kind": "pairwise", "version": 2}
    assert uses(plugin.parse("judges", {"kind": "ensemble", "judges": ["length", "similarity"]})) == set()
    mixed = {"kind": "ensemble", "judges": ["length", {"kind": "reward_model", "model": "a"}]}
    assert uses(plugin.parse("judges", mixed)) == {"forward"}


# what it costs


@pytest.mark.parametrize(
    "settings, calls",
    [
        ({"kind": "pairwise"}, 8 * 7),
        ({"kind": "pairwise", "against": "first"}, 2 * 7),
        ({"kind": "anchor", "judge": {"kind": "pairwise"}, "meta": "gold"}, 2 * 8),
        ({"kind": "anchor", "judge": {"kind": "pairwise"}, "source": "teacher"}, 2 * 7),
        ({"kind": "rubric", "samples": 11}, 8),
        ({"kind": "joint", "samples": 3}, 3),
    ],
)
def test_calls_per_prompt_and_common_beginnings(settings, calls, tmp_path):
    """K responses: all pairs K(K-1) calls, against an anchor 2(K-1), pointwise K, jointly 1 a sample.

    Each call after the first shares the rubric with those before it, and within a prompt also the prompt.
    """
    texts = tuple(f"{'Paris and more. ' * 10}{i}" for i in range(8))
    groups = [
        Group(f"g{i}", ({"role": "user", "content": f"{i} " + "long question " * 40},), texts, {"gold": "g" * 160}, ("teacher",) * 8)
        for i in range(3)
    ]
    verdicts, engine = judge(tmp_path, settings, groups, engine=True)
    assert [verdict.tally["calls_per_prompt"] for verdict in verdicts] == [(calls, 1)] * 3 and len(engine.asked) == 3 * calls
    prompts = [request.messages[0]["content"] for request in engine.asked]
    fixed = min(shared(prompts[0], other) for other in prompts[calls::calls])
    assert fixed > 600, "the rubric is a common beginning over prompts"
    for at in range(1, calls):
        assert shared(prompts[at - 1], prompts[at]) > fixed + 560, "and within one the prompt too"
    seen = sum(max((shared(p, before) for before in prompts[:i]), default=0) for i, p in enumerate(prompts)) / sum(map(len, prompts))
    print(f"\n{settings}: {calls} calls a prompt, {seen:.0%} of the characters in a common beginning")
    assert seen > (0.3 if settings["kind"] == "joint" else 0.6)


def test_calls_for_eight_responses(tmp_path):
    """What each way of judging costs a prompt at K = 8."""
    group = Group("g", ASKED, EIGHT, {}, ("teacher",) * 8)
    ways = {
        "full": {"kind": "pairwise"},
        "anchor": {"kind": "anchor", "judge": {"kind": "pairwise"}, "source": "teacher"},
        "tournament": {"kind": "pairwise", "against": "tournament"},
        "rubric": {"kind": "rubric"},
        "joint": {"kind": "joint"},
    }
    asked = {name: len(judge(tmp_path / name, settings, [group], engine=True)[1].asked) for name, settings in ways.items()}
    assert asked == {"full": 56, "anchor": 14, "tournament": 22, "rubric": 8, "joint": 1}


# the judge stage


def _judged(path, judge_settings, texts=None, grader=None, **settings):
    source = table(path / "candidates", "candidates", candidates(texts or {f"p{i}": list(FACTS) for i in range(6)}))
    (path / "grader").mkdir()
    made = {"candidates": source, **{slot: folder(path / "grader") for slot in ("judge.model",)}}
    body = {"judge": {"model": "m", **judge_settings}, **settings}
    return build(path / "judged", "judge", body, made, engine={"kind": GRADER, **(grader or {})}, rows_per_shard=4)


def test_facts_of_a_judge_add_up_over_shards(tmp_path):
    made = _judged(tmp_path, {"kind": "pairwise", "mode": "strict"})
    facts = made.manifest.facts
    assert facts["judge"]["calls_per_prompt"] == 20 and facts["judge"]["position_rate"] == 0.5 and facts["judge"]["order_flips"] == 0
    assert facts["observations"]["position_rate"] == 120 and facts["observations"]["calls_per_prompt"] == 6
    assert facts["cycles"] == 0 and facts["judge"]["parse_failures"] == 0 and facts["judge"]["cached_share"] > 0.5
    found = rows.read(made.path).to_pylist()
    assert found[0]["scores"] == [0.25, 0.5, 0.75, 1, 0] and "orders" in found[0]["detail"]


def test_a_judge_that_favours_a_place_fails_the_step(tmp_path):
    sentence = r"judge 'pairwise' has position_rate 1.000 over 120 observations, outside 0.35 to 0.65; use another judge"
    with pytest.raises(Refusal, match=sentence):
        _judged(tmp_path / "a", {"kind": "pairwise", "mode": "strict"}, grader={"first": 9})
    assert _judged(tmp_path / "b", {"kind": "pairwise"}, grader={"first": 9}, position_rate=None)
    assert _judged(tmp_path / "c", {"kind": "pairwise"}, grader={"first": 9}, min_observations=121)


def test_limits_on_any_rate(tmp_path):
    same = {f"p{i}": ["Paris a", "Paris b", "Paris c"] for i in range(30)}
    made = _judged(tmp_path / "free", {"kind": "rubric"}, same)
    assert made.manifest.facts["ties"] == 30 and made.manifest.facts["share_at_top"] == 1
    with pytest.raises(Refusal) as refused:
        _judged(
            tmp_path / "held",
            {"kind": "rubric"},
            same,
            limits={"ties": [None, 0.6], "share_at_top": [None, 0.5], "sample_agreement": [0.5, None]},
        )
    assert len(refused.value.problems) == 2 and "has ties 1.000 over 30 observations, outside - to 0.6; use more samples" in str(
        refused.value
    )
    for limits in ({"tie": [0, 1]}, {"position_rate": [0, 1]}):
        with pytest.raises(ValueError, match="no rate 'tie'; did you mean 'ties'|has a field of its own"):
            _judged(tmp_path / next(iter(limits)), {"kind": "rubric"}, same, limits=limits)


def test_unparsed_is_undecided_and_not_a_tie(tmp_path):
    made = _judged(tmp_path / "a", {"kind": "rubric"}, grader={"mumbles": 1}, max_undecided=1.0)
    assert (
        made.manifest.facts["undecided"] == 30 and made.manifest.facts["ties"] == 0 and made.manifest.facts["judge"]["parse_failures"] == 1
    )
    with pytest.raises(Refusal, match="left 30 of 30 responses undecided"):
        _judged(tmp_path / "b", {"kind": "rubric"}, grader={"mumbles": 1})


def test_cycles_are_counted():
    from judges import Verdict
    from stages import _verdicts

    ring = ((0.5, 0.9, 0.1), (0.1, 0.5, 0.9), (0.9, 0.1, 0.5))
    order = ((0.5, 0.9, 0.9), (0.1, 0.5, 0.9), (0.1, 0.1, 0.5))
    tied = ((0.5, 0.5, 0.9), (0.5, 0.5, 0.9), (0.1, 0.1, 0.5))
    group = Group("g", ASKED, ("a", "bb", "ccc"), {})
    verdicts = [Verdict((1.0, 2.0, 3.0), wins) for wins in (ring, order, tied, ring, None)]
    facts = _verdicts.summary(_verdicts.statistics([group] * 5, verdicts))
    assert facts["cycles"] == pytest.approx(2 / 3, abs=1e-6) and facts["observations"]["cycles"] == 3


def test_every_llm_judge_asks_in_the_same_layout():
    """Rubric, then conversation, then responses, then the reminder and what to answer: the longest common beginning."""
    from judges._shield import Shield

    of = _prompts.RUBRICS["additive-five"]
    text = _prompts.pointwise(of, ASKED, "an answer", Shield(), "id", reason=True)
    places = [
        text.index(part)
        for part in ("Rate the response", "<<<conversation", "Tell me about", "<<<response", "an answer", "was material", "Score")
    ]
    assert places == sorted(places) and "{low}" not in text and "from 0 to 5" in text
    several = _prompts.conversation(({"role": "system", "content": "be brief"}, *ASKED), Shield(), "id")
    assert "SYSTEM\nbe brief\n\nUSER\nTell me about Paris." in several
    for prompt in (
        text,
        _prompts.pair(_prompts.QUESTION, ASKED, "a", "b", Shield(), "id", reason=True),
        _prompts.together(of, ASKED, ["a", "b"], Shield(), "id"),
    ):
        assert _grammar.score(prompt, 0, 9) is None and _grammar.choice(prompt) is None, "our own words are no verdict"


def test_settings_have_the_fields_that_planning_reads():
    for module in (rubric, pairwise):
        assert {"engine"} == module.USES
    assert anchor.uses(anchor.Config(judge=plugin.parse("judges", {"kind": "rubric", "model": "m"}), meta="x")) == {"engine"}
