"""`x@prev2`, `x@prev3` and so on: nodes of so many rounds ago, and what is said of those that are not there."""

import re

import pytest

from pipeline.errors import Problems
from pipeline.views.reference import reference_markdown
from pipeline.views.schema import REFERENCE
from tests.support.core import small, steps


def _reads(ref: str, rounds: int = 4) -> list[str]:
    body = small(rounds=rounds, round__again={"stage": "tests.support.plugins.shout", "prompts": ref})
    by_address = {step.address: step for step in steps(body)}
    return [by_address[f"round-{r:02d}/again"].inputs["prompts"][0] for r in range(1, rounds + 1)]


@pytest.mark.parametrize(
    "ref, places",
    [
        ("words@prev", ["start", "round-01", "round-02", "round-03"]),
        ("words@prev1", ["start", "round-01", "round-02", "round-03"]),
        ("words@prev2", ["start", "start", "round-01", "round-02"]),
        ("words@prev3", ["start", "start", "start", "round-01"]),
        ("words@prev12", ["start"] * 4),
    ],
)
def test_a_node_of_so_many_rounds_ago_and_before_round_one_the_starts(ref, places):
    assert _reads(ref) == [f"{place}/words" for place in places]


def test_two_digits_of_rounds():
    assert _reads("words@prev10", rounds=12)[9:] == ["start/words", "round-01/words", "round-02/words"]


def test_another_number_of_rounds_is_another_key():
    def keys(ref: str) -> list[str]:
        body = small(round__again={"stage": "tests.support.plugins.shout", "prompts": ref})
        return [step.key for step in steps(body) if step.node == "again"]

    one, two = keys("words@prev"), keys("words@prev2")
    assert one == keys("words@prev1")
    assert one[0] == two[0], "in round 1 both are the start's"
    assert one[1] != two[1] and one[2] != two[2]


@pytest.mark.parametrize(
    "ref, sentence",
    [
        ("words@prev0", "'words@prev0': no time 'prev0'; did you mean 'prev'?"),
        ("words@prev-2", "'words@prev-2': no time 'prev-2'; did you mean 'prev2'?"),
        ("words@pref2", "'words@pref2': no time 'pref2'; did you mean 'prev2'?"),
        ("words@last", "'words@last': no time 'last'; known: all, prev, prev2, start"),
        ("words@", "'words@': no time ''"),
        ("loud@prev2", "'loud@prev2' is start/loud here, and the start has no usable node 'loud'; add one, or read 'loud'"),
    ],
)
def test_what_is_wrong_is_said(ref, sentence):
    with pytest.raises(Problems) as caught:
        steps(small(round__again={"stage": "tests.support.plugins.shout", "prompts": ref}))
    assert sentence in str(caught.value)


def test_a_round_that_makes_no_such_node_is_named():
    start_only = small(
        start__more={"stage": "tests.support.plugins.words", "take": 3},
        round__again={"stage": "tests.support.plugins.shout", "prompts": "more@prev2"},
    )
    with pytest.raises(Problems, match="'more@prev2' is the 'more' of 2 rounds before, and the round makes none; read 'more@start'"):
        steps(start_only)
    sometimes = {"stage": {"by_round": [None, "tests.support.plugins.shout"]}, "prompts": "words"}
    with pytest.raises(Problems, match="'odd@prev2' has no stage in round-01, so it is not there"):
        steps(
            small(
                round__odd=sometimes,
                round__again={"stage": "tests.support.plugins.shout", "prompts": {"by_round": ["words", "words", "odd@prev2"]}},
            )
        )


def test_the_schema_and_the_reference_page_know_them():
    for good in ("x", "x@prev", "x@prev2", "x@prev10", "x@start", "x@all"):
        assert re.match(REFERENCE, good), good
    for bad in ("x@", "x@prev0", "x@prev02", "x@last"):
        assert not re.match(REFERENCE, bad), bad
    assert "`x@prev2`" in reference_markdown()
