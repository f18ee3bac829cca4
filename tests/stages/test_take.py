"""take: what each shape becomes, how a shape is told, what is counted, and the one sentence in which a row is refused."""

import json
import math
from collections import Counter
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import rows
from pipeline.errors import Refusal
from pipeline.plan import plan
from pipeline.recipe import make
from sources import hub
from stages import take
from stages.take.shapes import RATINGS, SHAPES, Name
from tests.support.core import profile
from tests.support.steps import build, candidates, prompt, table


def said(text):
    return [{"role": "assistant", "content": text}]


def taken(tmp_path, lines, kind, **settings):
    """Facts and rows of a step that takes `lines`, given as JSON Lines."""
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = build(path.with_suffix(""), "take", {"table": kind, "source": {"kind": "jsonl", "path": str(path)}, **settings})
    return made.manifest.facts, [_said(row) for row in rows.read(made.path).to_pylist()]


def _said(row):
    """A row as it is told here: a message without tool calls has no such key."""

    def message(value):
        return {k: v for k, v in value.items() if (k, v) != ("tool_calls", None)} if isinstance(value, dict) else value

    return {name: [message(each) for each in value] if isinstance(value, list) else value for name, value in row.items()}


def rated(text, response, **ratings):
    return {"prompt": text, "response": response, **dict.fromkeys(RATINGS, 1), **ratings}


PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
GROUP = {"prompt": "q", "responses": ["a", "b"], "scores": [1, 0]}
OWN = {"id": "x", "prompt": prompt("q"), "chosen": said("a"), "rejected": said("b"), "source_round": 2}
OWN_GROUP = {**candidates({"x": ["a", "b"]})[0], "scores": [1.0, 0.0], "wins": [[0.5, 1.0], [0.0, 0.5]], "meta": None}
FEEDBACK = {"instruction": "q", "completions": [{"response": "a", "overall_score": 7.0}, {"response": "b", "overall_score": 2.0}]}


# Pairs.

HELLO = {"role": "system", "content": "be kind"}
CHATS = {
    "texts": ({"prompt": "q", "chosen": "a", "rejected": "b"}, prompt("q")),
    "messages": ({"prompt": [HELLO, *prompt("q")], "chosen": said("a"), "rejected": said("b")}, [HELLO, *prompt("q")]),
    "an implicit prompt": ({"chosen": prompt("q") + said("a"), "rejected": prompt("q") + said("b")}, prompt("q")),
    "a prompt that both repeat": ({"prompt": "q", "chosen": prompt("q") + said("a"), "rejected": prompt("q") + said("b")}, prompt("q")),
    "a text that the conversations put after a system message": (
        {"prompt": "q", "chosen": [HELLO, *prompt("q"), *said("a")], "rejected": [HELLO, *prompt("q"), *said("b")]},
        [HELLO, *prompt("q")],
    ),
    "turns after the prompt that both share": (
        {"prompt": prompt("p"), "chosen": said("m") + prompt("q") + said("a"), "rejected": said("m") + prompt("q") + said("b")},
        prompt("p") + said("m") + prompt("q"),
    ),
    "a transcript": (
        {
            "chosen": "\n\nHuman: p\n\nAssistant: m\n\nHuman: q\nwhy?\n\nAssistant: a",
            "rejected": "\n\nHuman: p\n\nAssistant: m\n\nHuman: q\nwhy?\n\nAssistant: b",
        },
        prompt("p") + said("m") + prompt("q\nwhy?"),
    ),
    "HelpSteer3": ({"context": prompt("q"), "response1": "b", "response2": "a", "overall_preference": 2}, prompt("q")),
    "HelpSteer2": (
        {
            "prompt": "p\n<extra_id_1>Assistant\nm\n<extra_id_1>User\nq",
            "response_1": "a",
            "response_2": "b",
            "preference_strength": -1,
        },
        prompt("p") + said("m") + prompt("q"),
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_a_pair_is_a_prompt_and_two_messages(tmp_path, name):
    line, asked = CHATS[name]
    _, (row,) = taken(tmp_path, [line], "pairs")
    assert (row["prompt"], row["chosen"], row["rejected"]) == (asked, said("a"), said("b"))
    same = build(tmp_path / "prompts", "prompts", {"source": _source(tmp_path / "p.jsonl", [{"prompt": asked}])})
    assert rows.read(same.path)["id"].to_pylist() == [row["prompt_id"]], "the id that the stage `prompts` gives"
    unknown = ("chosen_token_ids", "tokenizer", "chosen_score", "chosen_win_rate", "label", "source_round")
    assert all(row[column] is None for column in unknown) and row["weight"] == 1.0


def _source(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"kind": "jsonl", "path": str(path)}


def test_implicit_prompts_are_what_trl_extracts(tmp_path):
    extract_prompt = pytest.importorskip("trl.data_utils").extract_prompt
    line = {"chosen": [HELLO, *prompt("p"), *said("m"), *prompt("q"), *said("a")]}
    line["rejected"] = [*line["chosen"][:-1], *said("b")]
    _, (row,) = taken(tmp_path, [line], "pairs")
    assert {name: row[name] for name in ("prompt", "chosen", "rejected")} == extract_prompt(line)


@pytest.mark.parametrize(
    "names", [("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating")]
)
def test_scores_of_pairs_are_kept_under_any_of_their_names(tmp_path, names):
    facts, (row,) = taken(tmp_path, [{**PAIR, names[0]: 8.5, names[1]: 3, "chosen-model": "m"}], "pairs")
    assert (row["chosen_score"], row["rejected_score"]) == (8.5, 3.0) and facts["ignored"] == ["chosen-model"]


def test_ultrafeedback_binarized(tmp_path):
    both = {"chosen": prompt("q") + said("a"), "rejected": prompt("q") + said("b"), "messages": prompt("q") + said("a")}
    line = {"prompt": "q", "prompt_id": "f0e37e9f", **both, "score_chosen": 8.5, "score_rejected": 8.5}
    facts, (row,) = taken(tmp_path, [line], "pairs")
    assert facts["shape"] == "ultrafeedback-binarized" and facts["ignored"] == ["prompt_id", "messages"]
    assert row["prompt"] == prompt("q") and row["chosen_score"] == row["rejected_score"] == 8.5


def test_pairs_of_one_prompt_have_ids_of_their_own_and_nothing_goes_in_silence(tmp_path):
    lines = [PAIR, {**PAIR, "rejected": "c"}, PAIR, {**PAIR, "rejected": "a"}]
    facts, found = taken(tmp_path, lines, "pairs")
    assert len({row["id"] for row in found}) == 2 and len({row["prompt_id"] for row in found}) == 1
    assert facts["dropped"] == {"duplicates": 1, "identical": 1} and facts["read"] == 4 == facts["rows"] + 2
    _, again = taken(tmp_path, lines[::-1], "pairs")
    assert {row["id"] for row in again} == {row["id"] for row in found}, "ids depend on no order"


def test_ids_that_are_there_are_kept(tmp_path):
    _, found = taken(tmp_path, [{**PAIR, "id": 7}, {**PAIR, "id": "x"}], "pairs")
    assert [row["id"] for row in found] == ["7", "x"]
    _, found = taken(tmp_path, [{**GROUP, "id": "x"}, {**GROUP, "id": "y"}], "judged")
    assert [row["id"] for row in found] == ["x", "y"]


def test_a_tie_makes_no_pair(tmp_path):
    line = {"context": prompt("q"), "response1": "a", "response2": "b"}
    facts, found = taken(tmp_path, [{**line, "overall_preference": how} for how in (0, 3, None)], "pairs")
    assert facts["dropped"] == {"ties": 2} and found[0]["chosen"] == said("b") and found[0]["chosen_score"] is None


# Groups.


def test_responses_to_one_prompt_are_one_group_wherever_they_stand(tmp_path):
    lines = [rated("p", "a", helpfulness=4), rated("q", "x"), rated("p", "b", helpfulness=2), rated("q", "y"), rated("p", "c")]
    facts, found = taken(tmp_path, lines, "judged")
    assert [[each["text"] for each in row["responses"]] for row in found] == [["x", "y"], ["a", "b", "c"]]
    assert found[1]["scores"] == [4.0, 2.0, 1.0] and found[1]["wins"] is None
    assert (facts["read"], facts["rows"], facts["merged"], facts["responses"]) == (5, 2, 3, 5)


def test_ratings_become_scores_and_models_sources(tmp_path):
    completions = [
        {"response": "a", "model": "m", "overall_score": 7.0, "annotations": {"honesty": {"Rating": "4"}}},
        {"response": "b", "model": "n", "overall_score": None, "annotations": {"honesty": {"Rating": "N/A"}}},
    ]
    line = {"instruction": "q", "completions": completions, "source": "flan"}
    facts, (row,) = taken(tmp_path, [line], "judged", keep=["source"])
    assert row["scores"] == [7.0, None] and [each["source"] for each in row["responses"]] == ["m", "n"]
    assert json.loads(row["meta"]) == {"source": "flan"} and facts["undecided"] == 1 and facts["mean_score"] == 7.0
    _, (row,) = taken(tmp_path, [line], "judged", score="honesty")
    assert row["scores"] == [4.0, None], "a score is never invented"


def test_a_weighted_sum_of_ratings(tmp_path):
    lines = [rated("p", "a", helpfulness=4, verbosity=2), rated("p", "b", helpfulness=1, verbosity=None)]
    _, (row,) = taken(tmp_path, lines, "judged", score={"helpfulness": 0.5, "verbosity": -0.25})
    assert row["scores"] == [1.5, None]


def test_columns_of_other_names(tmp_path):
    line = {"question": "q", "answers": ["a", "b"], "marks": [1, None]}
    names = {"prompt": "question", "responses": "answers", "scores": "marks"}
    facts, (row,) = taken(tmp_path, [line], "judged", columns=names)
    assert facts["shape"] == "group" and row["prompt"] == prompt("q") and row["scores"] == [1.0, None]
    _, (row,) = taken(
        tmp_path, [{"good": "a", "bad": "b", "q": "q"}], "pairs", columns={"chosen": "good", "rejected": "bad", "prompt": "q"}
    )
    assert row["chosen"] == said("a")


def test_a_group_without_its_scores_is_candidates(tmp_path):
    _, (row,) = taken(tmp_path, [{"prompt": "q", "responses": ["a"], "scores": [1]}], "candidates")
    assert [each["text"] for each in row["responses"]] == ["a"] and "scores" not in row


# Our own tables.


def test_every_column_of_a_table_is_kept_and_missing_ones_are_null(tmp_path):
    whole = {
        **OWN, "prompt_id": "p", "prompt_token_ids": [1, 2], "chosen_token_ids": [3], "rejected_token_ids": [], "tokenizer": "t",
        "chosen_score": 0.1 + 0.2, "rejected_score": -1e-300, "chosen_win_rate": 1 / 3, "rejected_win_rate": None, "label": 0.75,
        "weight": 0.5, "chosen_mask": [True], "rejected_mask": [],
    }  # fmt: skip
    assert set(whole) == set(rows.TABLES["pairs"].names)
    facts, found = taken(tmp_path, [whole, {"prompt": prompt("p"), "chosen": said("a"), "rejected": said("")}], "pairs", shape="rematch")
    assert found[0] == whole and facts["rows"] == 2
    assert found[1]["id"].startswith(found[1]["prompt_id"]) and found[1]["weight"] is found[1]["tokenizer"] is None


def test_what_a_run_makes_is_taken_as_it_is(tmp_path):
    """Empty responses, groups of one, equal sides: what a run made of them is its own affair."""
    lines = candidates({"a": ["", "x"], "b": ["y"]})
    judged = [{**line, "scores": [None] * len(line["responses"]), "detail": {"why": "漢"}} for line in lines]
    made = table(tmp_path / "judged", "judged", judged)
    back = build(tmp_path / "back", "take", {"table": "judged", "source": {"kind": "parquet", "path": str(made.path)}})
    assert back.manifest.digest == made.manifest.digest
    _, found = taken(tmp_path, [{**OWN, "chosen": said("b")}], "pairs")
    assert found[0]["chosen"] == found[0]["rejected"]


def test_a_folder_of_parquet_is_read_in_order_and_a_value_of_another_type_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    for at in range(2):
        lines = [{**PAIR, "rejected": f"{at}{i}"} for i in range(3)]
        pq.write_table(pa.Table.from_pylist(lines), tmp_path / f"folder/{at}.parquet")
    made = build(tmp_path / "made", "take", {"table": "pairs", "source": {"kind": "parquet", "path": str(tmp_path / "folder")}, "take": 5})
    assert [row["rejected"][0]["content"] for row in rows.read(made.path).to_pylist()] == ["00", "01", "02", "10", "11"]
    assert len(made.manifest.facts["origin"]["files"]) == 2
    with pytest.raises(Refusal, match=r"jsonl:2: a value is not of its column's type .*; mend the row, or leave such rows out"):
        taken(tmp_path, [{**OWN, "id": "a"}, {**OWN, "source_round": "two"}], "pairs")


# Which shape.


def test_every_shape_is_found_by_its_columns(tmp_path):
    lines = {
        "rematch": OWN, "preference": PAIR, "group": GROUP, "ultrafeedback": FEEDBACK, "helpsteer": rated("q", "a"),
        "ultrafeedback-binarized": {**PAIR, "score_chosen": 1, "score_rejected": 0, "messages": []},
        "hh-rlhf": CHATS["a transcript"][0], "helpsteer3": CHATS["HelpSteer3"][0], "helpsteer2-preference": CHATS["HelpSteer2"][0],
    }  # fmt: skip
    assert set(lines) == set(SHAPES) == {*get_args(Name)} - {"auto"}
    for name, line in lines.items():
        gives = {"pairs": "pairs", "groups": "candidates", "rematch": "pairs"}[SHAPES[name].gives]
        assert taken(tmp_path, [line], gives)[0]["shape"] == taken(tmp_path, [line], gives, shape=name)[0]["shape"] == name
    assert taken(tmp_path, [OWN_GROUP], "judged")[0]["shape"] == "rematch"


@pytest.mark.parametrize(
    "kind, line, settings, sentence",
    [
        ("pairs", {"question": "q"}, {}, r"its columns \(question\) are of no known shape: 'preference' has .*name `shape`"),
        ("judged", {**PAIR, **GROUP}, {}, "are those of preference and of group; say which with `shape`"),
        ("pairs", GROUP, {}, r"shape 'group' gives judged groups and no pairs; write `table: judged`, and add a node \{stage: pair, "),
        ("pairs", OWN_GROUP, {}, r"holds judged and not pairs; write `table: judged`, and add a node \{stage: pair, "),
        ("candidates", OWN_GROUP, {}, "holds judged and not candidates; write `table: judged`$"),
        ("judged", PAIR, {}, "shape 'preference' gives pairs and not judged; write `table: pairs`"),
        ("pairs", PAIR, {"keep": ["source"]}, "keep: source would have no place"),
        ("judged", GROUP, {"keep": ["promt"]}, "keep: no column 'promt'; did you mean 'prompt'?"),
        ("judged", GROUP, {"columns": {"promt": "prompt"}}, "columns: no column 'promt'; did you mean 'prompt'?"),
        ("judged", GROUP, {"columns": {"prompt": "promt"}}, "columns: no column 'promt'; did you mean 'prompt'?"),
        ("judged", GROUP, {"score": "helpfulness"}, "score: shape 'group' has scores of its own"),
        ("judged", FEEDBACK, {"score": "overal_score"}, "score: no rating 'overal_score'; did you mean 'overall_score'?"),
        ("judged", {**GROUP, "responses": "a"}, {}, "`responses` is a list, not 'a'"),
        ("judged", {**FEEDBACK, "completions": {}}, {}, "`completions` is a list, not {}"),
        ("judged", {**FEEDBACK, "completions": ["a"]}, {}, r"completions\[0\] is an object with a `response`, not 'a'"),
        ("judged", {**GROUP, "scores": ["1", 0]}, {}, r"scores\[0\] is a number or null, not '1'"),
        ("judged", {**GROUP, "responses": ["a", 3]}, {}, r"responses\[1\] is a text, not 3"),
        ("judged", {**GROUP, "id": True}, {}, "`id` is a text or a whole number, not True"),
        ("pairs", {**PAIR, "chosen_score": math.inf, "rejected_score": 0}, {}, "`chosen_score` is inf; write null where there is no score"),
        ("pairs", {"chosen": "a", "rejected": "b"}, {}, "has no prompt, and `chosen` is a text; name the column of the prompt"),
        ("pairs", {"chosen": said("a"), "rejected": said("b")}, {}, "has no prompt, and `chosen` and `rejected` begin with different"),
        ("pairs", {**PAIR, "chosen": said("a") + prompt("c"), "rejected": said("b")}, {}, "`chosen` goes on for 2 messages"),
        ("pairs", {**PAIR, "chosen": prompt("c"), "rejected": said("b")}, {}, "`chosen` goes on for 1 messages .* the first the user's"),
        ("pairs", {"chosen": "Human: a", "rejected": "b"}, {}, "`chosen` is no transcript of `Human:` and `Assistant:`"),
        ("pairs", {**OWN, "chosen": said("a") + prompt("b")}, {}, "`chosen` ends with a message of the user"),
        ("pairs", {**OWN, "chosen": [{"role": "assistant", "content": "a", "contend": "b"}]}, {}, r"`chosen`\[0\]: no field 'contend'"),
        ("pairs", {**OWN, "chosen": "a"}, {}, "`chosen` is a list, not 'a'"),
        ("pairs", {**OWN, "label": "1"}, {}, "`label` is a number or null, not '1'"),
        ("judged", {**OWN_GROUP, "scores": None}, {}, "has no scores for 2 responses"),
        ("judged", {**OWN_GROUP, "wins": [[0.5, 1.5], [0.0, 0.5]]}, {}, "`wins` holds what is no probability"),
        ("judged", {**OWN_GROUP, "responses": []}, {"shape": "rematch"}, "has no responses"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_one_sentence_with_its_place(tmp_path, kind, line, settings, sentence):
    with pytest.raises(Refusal, match=sentence) as refusal:
        taken(tmp_path, [line], kind, **settings)
    assert "0.jsonl:1: " in str(refusal.value) or str(refusal.value).startswith("columns: ")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"source": {"kind": "letters", "count": 3}}, "source: 'letters' gives prompts and no rows of its own; use hub, jsonl or parquet"),
        ({"source": {"kind": "jsonl", "path": "x", "column": "q"}}, "source: column is read by prompts and demonstrations alone"),
        ({"shape": "ultrafeedback"}, "shape 'ultrafeedback' gives judged groups and no pairs"),
        ({"shape": "helpsteer3", "table": "judged"}, "shape 'helpsteer3' gives pairs and not judged"),
        ({"shape": "ultra"}, "input should be 'auto', 'rematch'"),
    ],
)
def test_the_plan_knows_what_can_never_be_taken(settings, sentence):
    body = {"stage": "take", "table": "pairs", "source": {"kind": "jsonl", "path": "x.jsonl"}, **settings}
    with pytest.raises(Exception, match=sentence.lower()) as refusal:
        plan(make({"name": "t", "rounds": 0, "start": {"given": body}, "round": {}}, "t"), profile())
    assert str(refusal.value).startswith("start/given: ")


def test_a_node_makes_the_table_that_it_asks_for(tmp_path):
    given = {"stage": "take", "source": {"kind": "jsonl", "path": "x.jsonl"}}
    body = {
        "name": "t",
        "rounds": 0,
        "round": {},
        "start": {table: {**given, "table": table} for table in ("pairs", "judged", "candidates")},
    }
    assert [step.makes for step in plan(make(body, "t"), profile())] == ["pairs", "judged", "candidates"]
    pq.write_table(pa.table({"prompt": ["q"] * 9}), tmp_path / "x.parquet")
    for path, limit, most in ((tmp_path / "x.parquet", None, 9), (tmp_path / "x.parquet", 4, 4), (tmp_path / "y.parquet", 4, 4)):
        config = take.Config.model_validate({"table": "pairs", "source": {"kind": "parquet", "path": str(path)}, "take": limit})
        assert take.estimate(config, {}, None)["rows"] == most


# What is left out.


def test_malformed_rows_are_left_out_if_that_is_asked_for(tmp_path):
    lines = [PAIR, {**PAIR, "chosen": " "}, {**PAIR, "prompt": 3}, {**PAIR, "id": "x"}, {**PAIR, "id": "x"}]
    facts, found = taken(tmp_path, lines, "pairs", malformed="drop")
    assert len(found) == 2 and facts["dropped"] == {"malformed": 3} and facts["read"] == 5
    assert facts["first_malformed"].endswith("0.jsonl:2: `chosen` is empty; mend the row")
    facts, found = taken(tmp_path, [rated("p", "a"), rated("q", "b"), rated("q", "c"), rated("q", "")], "judged", malformed="drop")
    assert len(found) == 1 and facts["dropped"] == {"malformed": 2} and facts["read"] == 4 == facts["rows"] + facts["merged"] + 2
    facts, found = taken(tmp_path, [OWN, {**OWN, "id": "y", "source_round": "two"}], "pairs", malformed="drop")
    assert len(found) == facts["rows"] == 1 and facts["dropped"] == {"malformed": 1}
    with pytest.raises(Refusal, match=r"no row is left of the 1 that were read \(1 malformed; first .*`chosen` is empty"):
        taken(tmp_path, [{**PAIR, "chosen": ""}], "pairs", malformed="drop")


def test_rows_stream(tmp_path, monkeypatch):
    """Of many rows, a thousand at most are Python at once, and only groups that are not whole yet are held."""
    read = Counter()

    def many(config):
        for at in range(20_000):
            read["now"] += 1
            yield f"row {at}", rated(f"p{at // 2}", f"r{at}")

    most = []
    real = rows.from_pylist

    def watched(name, made):
        most.append((len(made), read["now"]))
        return real(name, made)

    source = take.Config.model_validate({"table": "judged", "source": {"kind": "jsonl", "path": "x"}}).source.module
    monkeypatch.setattr(source, "rows", many)
    monkeypatch.setattr(source, "origin", lambda config: {})
    monkeypatch.setattr(rows, "from_pylist", watched)
    build(tmp_path / "made", "take", {"table": "judged", "source": {"kind": "jsonl", "path": "x"}})
    assert [length for length, _ in most] == [1024] * 9 + [10_000 - 9 * 1024]
    assert [at - 20_001 for _, at in most] == [2048 * i for i in range(1, 10)] + [20_000], "each batch is written before the next is read"


# The hub, and pairs whose weight nobody gave.


def test_rows_of_the_hub_are_those_of_a_pinned_commit(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list([FEEDBACK])

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = {"kind": "hub", "dataset": "openbmb/UltraFeedback", "revision": "0" * 40}
    made = build(tmp_path / "made", "take", {"table": "judged", "source": source})
    assert set(asked) == {("openbmb/UltraFeedback", None, "train", "0" * 40)}
    assert made.manifest.facts["origin"] == {"dataset": "openbmb/UltraFeedback", "revision": "0" * 40}
    assert rows.read(made.path)["scores"].to_pylist() == [[7.0, 2.0]]
    assert list(hub.rows(hub.Config(**{k: v for k, v in source.items() if k != "kind"})))[0][0] == "openbmb/UltraFeedback (train), row 0"


def test_pairs_without_a_weight_decay_as_others_do(tmp_path):
    one, two = (table(tmp_path / name, "pairs", [{**OWN, "id": name, "weight": weight}]) for name, weight in (("a", None), ("b", 1.0)))
    mixed = build(tmp_path / "mixed", "mix", {"weights": [0.5, 1.0]}, {"rows": [one, two]})
    assert rows.read(mixed.path)["weight"].to_pylist() == [0.5, 1.0]
