"""EGPO's pairs, and the mismatched rows of KTO."""

import pytest

from pipeline import rows
from pipeline.errors import Refusal
from rules import explored
from tests.support.groups import judged
from tests.support.steps import build, candidates, on_disk, prompt, table


def group(scores=(None,) * 4, wins=None, sources="eeoo"):
    names = tuple({"e": "round-01/explore", "o": "round-01/opponent"}[letter] for letter in sources)
    return judged(tuple(f"text {i}" for i in range(len(names))), ("stop",) * len(names), names, tuple(scores), wins)


def choose(of, **settings):
    picks, reason = explored.choose(explored.Config(source="explore", **settings), of, 0)
    assert bool(picks) == (reason is None)
    return [(pick.chosen, pick.rejected, pick.win_rates) for pick in picks] or reason


WINS = ((0.5, 0.9, 0.2, 0.4), (0.1, 0.5, 0.7, 0.8), (0.8, 0.3, 0.5, 0.6), (0.6, 0.2, 0.4, 0.5))


def test_the_first_two_in_the_order_sampled_with_their_win_rates_against_the_opponent():
    [(chosen, rejected, rates)] = choose(group((0.0,) * 4, WINS), opponent="opponent")
    assert (chosen, rejected) == (0, 1) and rates == pytest.approx((0.3, 0.75)), "the second is better, and stays second"
    [(chosen, rejected, rates)] = choose(group((0.0,) * 4, WINS, "oeoe"), opponent="opponent")
    assert (chosen, rejected) == (1, 3) and rates == pytest.approx(((0.1 + 0.7) / 2, (0.6 + 0.4) / 2))
    assert choose(group((0.25, 0.5, 0.9, 0.5))) == [(0, 1, (0.25, 0.5))], "scores of an anchor"


def test_why_there_is_no_pair():
    assert choose(group((0.5,) * 4, sources="oooe")) == "single"
    assert choose(group((0.5, None, 0.5, 0.5))) == "undecided"
    assert choose(group((0.5, None, 0.5, 0.5)), opponent="opponent") == "undecided"


def test_what_cannot_be_is_refused():
    with pytest.raises(Refusal, match="none comes from 'explore'"):
        choose(group(sources="oooo"))
    with pytest.raises(Refusal, match="the scores 3 and 0.5 of 'x' are no probabilities"):
        choose(group((3.0, 0.5, 0, 0)))
    with pytest.raises(Refusal, match="`opponent` is looked up in a win table, and there is none here"):
        choose(group((0.5,) * 4), opponent="opponent")
    with pytest.raises(Refusal, match="0 come from 'oponent'"):
        choose(group((0.0,) * 4, WINS), opponent="oponent")


def _judged(path, wins):
    made = candidates({"a": ["one", "two", "three", "four"]})
    for each, source in zip(made[0]["responses"], "eeoo", strict=True):
        each["source"] = {"e": "round-01/explore", "o": "round-01/opponent"}[source]
    return table(path, "judged", [{**made[0], "scores": [0.25, 0.5, 0.5, 0.5], "wins": wins}])


def test_the_pairs_table_has_what_the_rule_says(tmp_path):
    rule = {"kind": "explored", "source": "explore", "opponent": "opponent"}
    made = build(tmp_path / "pairs", "pair", {"rule": rule}, {"judged": _judged(tmp_path / "judged", WINS)})
    [pair] = rows.read(made.path).to_pylist()
    assert [pair[side][0]["content"] for side in ("chosen", "rejected")] == ["one", "two"]
    assert (pair["chosen_win_rate"], pair["rejected_win_rate"]) == pytest.approx((0.3, 0.75)) and pair["label"] == 0.9
    facts = made.manifest.facts
    assert facts["mean_chosen_win_rate"] == pytest.approx(0.3) and facts["mean_label"] == 0.9


def test_win_rates_without_a_win_table(tmp_path):
    rule = {"kind": "explored", "source": "explore"}
    made = build(tmp_path / "pairs", "pair", {"rule": rule}, {"judged": _judged(tmp_path / "judged", None)})
    [pair] = rows.read(made.path).to_pylist()
    assert (pair["chosen_win_rate"], pair["rejected_win_rate"], pair["label"]) == (0.25, 0.5, None)
    assert made.manifest.facts["mean_rejected_win_rate"] == 0.5 and made.manifest.facts["mean_label"] is None


# mismatch


def _asked(count, per=2):
    return candidates({f"p{i}": [f"{i}-{j}" for j in range(per)] for i in range(count)})


def _mismatched(path, made, name="candidates", **kwargs):
    found = build(path, "mismatch", {}, {"rows": table(path.with_name(path.name + "-rows"), name, made)}, **kwargs)
    assert found.manifest.facts == {"rows": rows.count(found.path)}
    return rows.read(found.path).to_pylist()


def test_every_prompt_gets_a_response_of_another_one_and_each_is_used_once(tmp_path):
    made = _asked(50)
    found = _mismatched(tmp_path / "kl", made)
    assert [row["id"] for row in found] == [row["id"] for row in made]
    donors = []
    for row, own in zip(found, made, strict=True):
        [one] = row["responses"]
        donor, which = one["text"].split("-")
        assert f"p{donor}" != row["id"] and row["prompt"] == on_disk(own["prompt"]) and row["prompt_token_ids"] == own["prompt_token_ids"]
        assert one["token_ids"] == [ord(c) for c in one["text"]]
        assert one["source"] == "round-01/kl" and one["logprob"] is None and one["finish_reason"] == "stop"
        donors.append(donor)
    assert len(set(donors)) == 50
    assert {one["text"][-1] for row in found for one in row["responses"]} == {"0", "1"}, "either response is drawn"


def test_it_depends_on_seed_and_ids_alone(tmp_path):
    def texts(name, made, **kwargs):
        return {row["id"]: row["responses"][0]["text"] for row in _mismatched(tmp_path / name, made, **kwargs)}

    made = _asked(1500, per=1)
    one = texts("one", made)
    assert texts("two", made, rows_per_shard=7) == one
    assert texts("three", made[::-1]) == one, "the order of the rows does not matter"
    assert texts("four", made, seed=8) != one


def test_two_prompts_swap_and_one_is_refused(tmp_path):
    assert [row["responses"][0]["text"] for row in _mismatched(tmp_path / "two", _asked(2, per=1))] == ["1-0", "0-0"]
    with pytest.raises(Refusal, match="round-01/one: 1 prompts have a response, and a mismatch takes two"):
        _mismatched(tmp_path / "one", _asked(1))


def _pair(i, **more):
    text = {side: [{"role": "assistant", "content": f"{i}-{side}"}] for side in ("chosen", "rejected")}
    return {
        "id": f"p{i // 2}.01.{i}", "prompt_id": f"p{i // 2}", "prompt": prompt(f"say {i // 2}"), "prompt_token_ids": [1, 2],
        "tokenizer": "t", **text, "chosen_token_ids": [i, 1], "rejected_token_ids": [i, 2],
        "label": None, "weight": 1.0, "source_round": 1, **more,
    }  # fmt: skip


def test_of_pairs_one_row_for_each_prompt(tmp_path):
    found = _mismatched(tmp_path / "kl", [_pair(i) for i in range(40)], "pairs")
    assert [row["id"] for row in found] == [f"p{i}" for i in range(20)]
    sides = set()
    for row in found:
        [one] = row["responses"]
        donor, side = one["text"].split("-")
        assert f"p{int(donor) // 2}" != row["id"]
        assert one["token_ids"] == [int(donor), 1 if side == "chosen" else 2]
        sides.add(side)
    assert sides == {"chosen", "rejected"}


def test_ids_of_another_tokenizer_are_not_given_away(tmp_path):
    found = _mismatched(tmp_path / "kl", [_pair(i, tokenizer="ab"[i // 2 % 2]) for i in range(4)], "pairs")
    assert all(row["responses"][0]["token_ids"] is None and row["responses"][0]["text"] for row in found)
    unknown = [{**row, "tokenizer": None, "prompt_token_ids": None} for row in _asked(3)]
    assert len(_mismatched(tmp_path / "unknown", unknown)) == 3


def test_prompts_without_responses_are_left_out(tmp_path):
    made = [*_asked(3), {**_asked(1)[0], "id": "empty", "responses": []}]
    assert [row["id"] for row in _mismatched(tmp_path / "kl", made)] == ["p0", "p1", "p2"]
