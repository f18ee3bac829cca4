"""Recipes become steps with keys, and everything that is wrong with one is said at once."""

import pickle

import pytest

from pipeline import recipe
from pipeline.errors import Problems, Refusal
from tests.support.core import small, steps


def test_references_resolve_in_all_five_spellings():
    again = {"stage": "tests.support.plugins.shout", "suffix": {"by_round": ["a", "b"]}}
    body = small(round__again={**again, "prompts": ["words@start", "loud@prev"]})
    with pytest.raises(Problems, match="'loud@prev' is start/loud here, and the start has no usable node 'loud'"):
        steps(body)
    body = small(round__again={**again, "prompts": ["words@start", "words@prev"]})
    by_address = {step.address: step for step in steps(body)}
    assert list(by_address)[:4] == ["start/words", "round-01/loud", "round-01/words", "round-01/both"]
    # `x`: this round's if it comes earlier in the round, else the start's.
    assert by_address["round-01/loud"].inputs == {"prompts": ("start/words",)}
    assert by_address["round-01/again"].inputs == {"prompts": ("start/words", "start/words")}
    assert by_address["round-03/again"].inputs == {"prompts": ("start/words", "round-02/words")}
    assert by_address["round-03/both"].inputs == {"prompts": ("round-03/loud", "round-01/loud", "round-02/loud")}
    assert [by_address[f"round-0{r}/again"].config.suffix for r in (1, 2, 3)] == ["a", "b", "b"]


def test_what_changes_a_key_and_what_does_not():
    keys = {step.address: step.key for step in steps(small())}

    def changed(**edits: object) -> set[str]:
        return {step.address for step in steps(small(**edits)) if keys[step.address] != step.key}

    assert changed(round__loud__loud=1.0) == set()  # a default, written out
    assert changed(rounds=2) == set()
    assert changed(name="other") == set()
    assert changed(seed=1) == set(keys)
    assert changed(start__words__take=21) == set(keys)
    assert changed(round__both__suffix="...") == {"round-01/both", "round-02/both", "round-03/both"}
    assert changed(round__both__suffix={"by_round": ["!", "..."]}) == {"round-02/both", "round-03/both"}
    # Another spelling of the same reference.
    assert changed(round__words__prompts="words@prev") == set()


def test_equal_nodes_under_two_names_are_two_samples():
    made = steps(small(round__twin={"stage": "tests.support.plugins.shout", "prompts": "words@prev"}))
    by_address = {step.address: step for step in made}
    assert by_address["round-01/loud"].key != by_address["round-01/twin"].key
    assert by_address["round-01/loud"].seed != by_address["round-01/twin"].seed


BAD = [
    ({"round__loud__stage": "tests.support.plugins.shot"}, "round-01/loud: no module 'tests.support.plugins.shot' can be imported"),
    ({"round__loud__stage": "judg"}, "round-01/loud: no stage 'judg'; did you mean 'judge'?"),
    ({"round__loud__sufix": "?"}, "round-01/loud: no field 'sufix'; did you mean 'suffix'?"),
    ({"round__loud__suffix": 7}, "round-01/loud: suffix: input should be a valid string, not 7"),
    ({"round__loud__prompts": "wrds"}, "round-01/loud: prompts: no node 'wrds'; did you mean 'words'?"),
    ({"round__loud__prompts": "words@last"}, "'words@last': no time 'last'"),
    ({"round__loud__prompts": "both"}, "'both' comes later in the recipe; move it above loud, or write 'both@prev'"),
    ({"round__loud__prompts": "loud"}, "'loud' is this very node; write 'loud@prev'"),
    ({"round__bare": {}}, "round-01/bare: names no stage"),
    ({"start__words__prompts": "x"}, "start/words: no field 'prompts'"),
    ({"start__words__take": {"by_round": [1, 2]}}, "start/words: by_round stands in a node of the start"),
]


@pytest.mark.parametrize("edit, sentence", BAD)
def test_a_bad_recipe_is_told_where_and_what(edit, sentence):
    if sentence.endswith("move it above loud, or write 'both@prev'"):
        edit = {**edit, "round__both__prompts": "words@prev"}
    with pytest.raises(Problems) as caught:
        steps(small(**edit))
    assert sentence in str(caught.value)


def test_a_cycle_is_called_one():
    with pytest.raises(Problems, match="'both' closes a cycle: both reads loud"):
        steps(small(round__loud__prompts="both"))


def test_all_problems_are_reported_at_once_and_each_once():
    with pytest.raises(Problems) as caught:
        steps(small(start__words__tke=1, round__loud__prompts="wrds", round__both__sufix="x", round__both__prompts="nope"))
    assert len(caught.value.problems) == 4  # and none for the nodes that merely read a node at fault
    assert sum("wrds" in problem for problem in caught.value.problems) == 1


def test_problems_cross_processes():
    problems = pickle.loads(pickle.dumps(Problems(["a: is wrong", "b: too"])))
    assert problems.problems == ("a: is wrong", "b: too") and str(problems) == "a: is wrong\nb: too"


def test_a_wrong_kind_of_input_is_refused():
    body = small(round__cut={"stage": "pair", "judged": "words", "rule": "best_vs_worst"})
    with pytest.raises(Problems, match="'words' makes prompts, but judged is read here"):
        steps(body)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("seed", "has no '='"),
        ("round.lod.suffix=x", "no entry under round: 'lod'; did you mean 'loud'?"),
        ("seed.x=1", "seed is 0, which has no fields"),
    ],
)
def test_a_bad_change_is_refused(change, sentence):
    body = small().model_dump()
    with pytest.raises(Refusal) as caught:
        recipe.set_value(body, change)
    assert sentence in str(caught.value)


def test_a_change_from_a_round_on_keeps_the_rounds_before():
    body = recipe.set_value(small().model_dump(), "round.loud.suffix=huh", from_round=3)
    assert body["round"]["loud"]["suffix"] == {"by_round": [None, None, "huh"]}
