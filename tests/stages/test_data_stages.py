"""The stages that move rows: ids, counts that add up, disjoint parts, the columns of pairs, reports."""

import json
import random

import duckdb
import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest

from pipeline import rows
from pipeline.errors import Refusal
from pipeline.placement import placement
from stages import _matches
from tests.support.core import profile
from tests.support.steps import build, candidates, on_disk, prompt, table


def _prompts(path, count=10):
    return table(path, "prompts", [{"id": f"{i:04d}", "prompt": prompt(f"q{i}"), "meta": {"answer": str(i)}} for i in range(count)])


def _ids(artifact):
    return rows.read(artifact.path, ["id"])["id"].to_pylist()


def _jsonl(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"kind": "jsonl", "path": str(path)}


# prompts and demonstrations


def test_prompts_count_what_they_leave_out(tmp_path):
    source = _jsonl(tmp_path / "p.jsonl", [{"prompt": text} for text in ("a", "b", "a", "c" * 50, "d", "b")])
    made = build(tmp_path / "prompts", "prompts", {"source": {**source, "answer": None}, "max_prompt_characters": 20})
    facts = made.manifest.facts
    assert {k: facts[k] for k in ("rows", "read", "duplicates", "too_long")} == {"rows": 3, "read": 6, "duplicates": 2, "too_long": 1}
    assert facts["origin"]["blake3"]
    assert [p[0]["content"] for p in rows.read(made.path)["prompt"].to_pylist()] == ["a", "b", "d"]


def test_prompt_ids_depend_on_the_messages_alone(tmp_path):
    one = _jsonl(tmp_path / "1.jsonl", [{"prompt": "a", "answer": "1"}, {"prompt": "漢"}])
    two = _jsonl(tmp_path / "2.jsonl", [{"prompt": prompt("漢")}, {"prompt": "a"}])
    first = build(tmp_path / "first", "prompts", {"source": {**one, "kind": "jsonl"}})
    second = build(tmp_path / "second", "prompts", {"source": two}, seed=99)
    assert _ids(first) == _ids(second)[::-1]


def test_prompts_take_the_first(tmp_path):
    made = build(tmp_path / "prompts", "prompts", {"source": {"kind": "letters", "count": 3000}, "take": 1500})
    assert made.manifest.facts["rows"] == made.manifest.facts["read"] == len(set(_ids(made))) == 1500


def test_no_prompt_left_is_refused(tmp_path):
    source = _jsonl(tmp_path / "p.jsonl", [{"prompt": "long"}])
    with pytest.raises(Refusal, match="no prompt is left of the 1 that were read"):
        build(tmp_path / "prompts", "prompts", {"source": source, "max_prompt_characters": 2})


def test_demonstrations_become_candidates_without_tokens(tmp_path):
    lines = [{"prompt": "a", "r": "x"}, {"prompt": "b", "r": " "}, {"prompt": "a", "r": "y"}, {"prompt": "c", "r": "z"}]
    made = build(tmp_path / "shown", "demonstrations", {"source": {**_jsonl(tmp_path / "p.jsonl", lines), "response": "r"}})
    facts = made.manifest.facts
    assert {k: facts[k] for k in ("rows", "read", "duplicates", "empty")} == {"rows": 2, "read": 4, "duplicates": 1, "empty": 1}
    row = rows.read(made.path).to_pylist()[0]
    unknown = dict.fromkeys(("token_ids", "logprob", "mask", "messages"))
    assert row["responses"] == [{"text": "x", "finish_reason": "stop", "source": "demonstration", **unknown}]
    assert row["prompt_token_ids"] is None and row["tokenizer"] is None


def test_demonstrations_need_responses(tmp_path):
    with pytest.raises(Refusal, match="gives no responses"):
        build(tmp_path / "shown", "demonstrations", {"source": _jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}])})


# slice


@pytest.mark.parametrize("count, parts", [(10, 3), (2500, 3), (7, 7), (5, 1)])
def test_every_prompt_is_in_exactly_one_part(tmp_path, count, parts):
    source = _prompts(tmp_path / "prompts", count)
    cut = [_ids(build(tmp_path / f"part{r}", "slice", {"parts": parts}, {"rows": source}, round=r, seed=r)) for r in range(1, parts + 1)]
    assert sorted(i for part in cut for i in part) == _ids(source)
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
    assert all(part == sorted(part) for part in cut), "rows keep the order of the source"
    again = build(tmp_path / "again", "slice", {"parts": parts}, {"rows": source}, round=parts + 1)
    assert _ids(again) == cut[0] and again.manifest.facts["part"] == 1


def test_slices_by_number_and_size(tmp_path):
    source = _prompts(tmp_path / "prompts", 100)
    named = build(tmp_path / "named", "slice", {"parts": 4, "part": 2}, {"rows": source}, round=None)
    assert _ids(named) == _ids(build(tmp_path / "second", "slice", {"parts": 4}, {"rows": source}, round=2))
    few = _ids(build(tmp_path / "few", "slice", {"parts": 4, "take": 5}, {"rows": source}, round=2))
    assert len(few) == 5 and set(few) < set(_ids(named))
    assert _ids(named) != _ids(build(tmp_path / "other", "slice", {"parts": 4, "part": 2, "shuffle": 1}, {"rows": source}))


@pytest.mark.parametrize(
    "settings, round, sentence",
    [
        ({"parts": 3, "part": 4}, 1, "part 4 does not exist"),
        ({"parts": 3}, None, "`part` must say which"),
        ({"parts": 11}, 11, "part 11 of 11 is empty, there are 10 prompts"),
    ],
)
def test_slice_refuses(tmp_path, settings, round, sentence):
    with pytest.raises(Refusal, match=sentence):
        build(tmp_path / "part", "slice", settings, {"rows": _prompts(tmp_path / "prompts")}, round=round)


# judge


def _candidates(path, texts=None, answers=None):
    texts = texts or {"a": ["1", "12", "123"], "b": ["123", "12", "12"], "c": ["1", "1", "1"], "d": ["漢字", ""]}
    return table(path, "candidates", candidates(texts, answers))


def test_judging_adds_three_columns_and_changes_none(tmp_path):
    source = _candidates(tmp_path / "candidates")
    judged = build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": source}, rows_per_shard=3)
    before, after = rows.read(source.path), rows.read(judged.path)
    assert after.select(before.column_names).equals(before)
    found = after.to_pylist()
    assert found[0]["scores"] == [1, 2, 3] and found[0]["wins"] == [[0.5, 0, 0], [1, 0.5, 0], [1, 1, 0.5]]
    assert found[3]["wins"] == [[0.5, 1], [0, 0.5]] and found[0]["detail"] is None


def test_facts_describe_the_judge(tmp_path):
    source = _candidates(tmp_path / "candidates")
    facts = build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": source}, rows_per_shard=3).manifest.facts
    assert facts == {
        "rows": 4, "responses": 11, "undecided": 0, "groups_undecided": 0, "ties": 1, "mean_score": round(18 / 11, 6),
        "mean_spread": round((2 + 1 + 0 + 2) / 4, 6), "share_at_top": round(2 / 11, 6), "longer_wins": 1.0,
        "cycles": 0.0, "judge": {}, "observations": {"longer_wins": 6, "cycles": 1},
    }  # fmt: skip
    shorter = build(tmp_path / "shorter", "judge", {"judge": {"kind": "length", "prefer": "shorter"}}, {"candidates": source})
    assert shorter.manifest.facts["longer_wins"] == 0.0


def test_undecided_verdicts_are_null_and_counted(tmp_path):
    source = _candidates(tmp_path / "candidates", answers={"a": "12", "b": "12", "c": "12"})
    settings = {"judge": "exact_answer", "max_undecided": 0.5}
    judged = build(tmp_path / "judged", "judge", settings, {"candidates": source})
    assert judged.manifest.facts["undecided"] == 2 and judged.manifest.facts["groups_undecided"] == 1
    last = rows.read(judged.path).to_pylist()[3]
    assert last["scores"] == [None, None] and last["wins"] is None
    pairs = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst"}, {"judged": judged})
    assert pairs.manifest.facts["dropped"] == {"tie": 1, "undecided": 1}


def test_too_many_undecided_fail_the_step(tmp_path):
    source = _candidates(tmp_path / "candidates", answers={"a": "12"})
    with pytest.raises(Refusal, match=r"judge 'exact_answer' left 8 of 11 responses undecided \(72.7%, at most 10.0% are allowed\)"):
        build(tmp_path / "judged", "judge", {"judge": "exact_answer"}, {"candidates": source})


@pytest.mark.parametrize(
    "verdict, sentence",
    [
        ("(float('nan'),) * len(g.responses)", "not a finite number for a"),
        ("(1.0,)", "1 scores for the 3 responses of a"),
        ("(1.0,) * len(g.responses), ((0.5,),)", "a win table that is not 3 x 3 for a"),
    ],
)
def test_a_judge_from_outside_is_held_to_its_contract(tmp_path, monkeypatch, verdict, sentence):
    """One file on the path is a judge; what it returns is checked."""
    body = (
        "from judges import Verdict\nfrom pipeline.plugin import Settings\nVERSION, USES = 1, frozenset()\nclass Config(Settings): pass\n"
    )
    lab = f"lab{abs(hash(verdict))}"
    (tmp_path / lab).mkdir()
    (tmp_path / lab / "mine.py").write_text(body + f"def judge(config, groups, tools): return [Verdict({verdict}) for g in groups]\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        build(tmp_path / "judged", "judge", {"judge": f"{lab}.mine"}, {"candidates": _candidates(tmp_path / "candidates")})


# pair


def _judged(tmp_path, texts=None, name="judged"):
    source = _candidates(tmp_path / f"{name}-candidates", texts)
    return build(tmp_path / name, "judge", {"judge": "length"}, {"candidates": source})


def test_the_columns_of_a_pair(tmp_path):
    pairs = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst"}, {"judged": _judged(tmp_path)}, round=2, rows_per_shard=3)
    found = rows.read(pairs.path)
    assert found.schema.names == rows.TABLES["pairs"].names
    assert found["id"].to_pylist() == ["a.02.2-0", "b.02.0-1"]
    assert found.to_pylist()[0] == {
        "id": "a.02.2-0", "prompt_id": "a", "prompt": on_disk(prompt("say a")),
        "chosen": on_disk([{"role": "assistant", "content": "123"}]), "rejected": on_disk([{"role": "assistant", "content": "1"}]),
        "chosen_mask": None, "rejected_mask": None, "prompt_token_ids": [1, 2, 3], "chosen_token_ids": [49, 50, 51],
        "rejected_token_ids": [49], "tokenizer": "test", "chosen_score": 3.0, "rejected_score": 1.0,
        "chosen_win_rate": pytest.approx(2.5 / 3), "rejected_win_rate": pytest.approx(0.5 / 3), "label": 1.0, "weight": 1.0,
        "source_round": 2,
    }  # fmt: skip
    facts = pairs.manifest.facts
    assert facts["dropped"] == {"empty": 1, "tie": 1} and facts["paired"] + sum(facts["dropped"].values()) == facts["groups"] == 4
    assert (facts["mean_chosen_characters"], facts["mean_rejected_characters"]) == (3.0, 1.5)
    assert (facts["mean_chosen_tokens"], facts["mean_score_gap"], facts["mean_label"]) == (3.0, 1.5, 1.0)


def test_labels_can_be_left_to_the_objective(tmp_path):
    pairs = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst", "labels": False}, {"judged": _judged(tmp_path)})
    found = rows.read(pairs.path)
    assert found["label"].to_pylist() == [None, None] and found["chosen_win_rate"].null_count == 0
    assert pairs.manifest.facts["mean_label"] is None


def test_win_rates_without_oneself(tmp_path):
    pairs = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst", "include_self": False}, {"judged": _judged(tmp_path)})
    found = rows.read(pairs.path)
    assert found["chosen_win_rate"].to_pylist() == [1.0, 1.0] and found["rejected_win_rate"].to_pylist() == [0.0, 0.25]


def test_pairs_do_not_depend_on_the_shards(tmp_path):
    draw = random.Random(0)
    texts = {f"p{i:03d}": ["x" * draw.randint(0, 5) for _ in range(draw.randint(1, 6))] for i in range(300)}
    judged = _judged(tmp_path, texts)
    digests = set()
    for size in (7, 64, 1000):
        made = build(tmp_path / f"pairs{size}", "pair", {"rule": "best_vs_worst"}, {"judged": judged}, rows_per_shard=size)
        digests.add((made.manifest.digest, json.dumps(made.manifest.facts)))
    assert len(digests) == 1
    for pair, row in zip(rows.read(made.path).to_pylist(), _paired(judged), strict=True):
        assert pair["prompt_id"] == row["id"]
        assert len(pair["chosen"][0]["content"]) == max(row["scores"]) and len(pair["rejected"][0]["content"]) == min(row["scores"])
        assert pair["chosen_token_ids"] == [ord("x")] * int(max(row["scores"]))


def _paired(judged):
    return [row for row in rows.read(judged.path).to_pylist() if len(set(row["scores"])) > 1 and min(row["scores"]) > 0]


def test_pairs_need_no_token_ids_and_no_win_table(tmp_path):
    row = {**candidates({"a": ["long", "s"]})[0], "prompt_token_ids": None, "tokenizer": None, "scores": [1.0, 0.0], "wins": None}
    row["responses"] = [{**r, "token_ids": None, "logprob": None} for r in row["responses"]]
    pairs = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst"}, {"judged": table(tmp_path / "judged", "judged", [row])})
    found = rows.read(pairs.path).to_pylist()[0]
    assert found["chosen_token_ids"] is None and found["label"] is None and found["chosen_win_rate"] is None
    assert pairs.manifest.facts["mean_label"] is None and pairs.manifest.facts["mean_chosen_tokens"] is None


@pytest.mark.parametrize(
    "texts, settings, sentence",
    [
        ({"a": ["1", "1"], "b": ["12", "34"]}, {}, r"made 0 pairs of 2 groups, at least 1 are needed \(2 tie\)"),
        (None, {"min_pairs": 3}, r"made 2 pairs of 4 groups, at least 3 are needed \(1 empty, 1 tie\)"),
    ],
)
def test_too_few_pairs_fail_the_step(tmp_path, texts, settings, sentence):
    with pytest.raises(Refusal, match=sentence):
        build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst", **settings}, {"judged": _judged(tmp_path, texts)})


def test_pairs_open_in_pandas_and_duckdb(tmp_path):
    pairs = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst"}, {"judged": _judged(tmp_path)})
    (file,) = rows.files(pairs.path)
    frame = pandas.read_parquet(file)
    assert frame["chosen"][0][0]["content"] == "123" and list(frame["label"]) == [1.0, 1.0]
    back = tmp_path / "back.parquet"
    frame.to_parquet(back)
    assert pq.read_table(back).cast(rows.TABLES["pairs"]).to_pylist() == rows.read(pairs.path).to_pylist()
    query = f"select id, chosen[1].content, len(rejected_token_ids) from '{pairs.path}/*.parquet' order by id"
    assert duckdb.sql(query).fetchall() == [("a.01.2-0", "123", 1), ("b.01.0-1", "123", 2)]


# mix


def _pairs(tmp_path, name, round, count=400):
    texts = {f"p{i:04d}": ["long", "s"] for i in range(count)}
    return build(tmp_path / name, "pair", {"rule": "best_vs_worst"}, {"judged": _judged(tmp_path, texts, f"{name}-judged")}, round=round)


def test_mix_draws_shares_from_the_end_backwards(tmp_path):
    tables = [_pairs(tmp_path, f"r{r}", r) for r in (1, 2, 3)]
    settings = {"fractions": [0.1, 0.5, 1], "weights": [0.5, 1]}
    mixed = build(tmp_path / "mixed", "mix", settings, {"rows": tables})
    facts = mixed.manifest.facts
    assert facts["read"] == 1200 == facts["rows"] + facts["not_drawn"] and facts["duplicates"] == 0
    assert 15 < facts["from"][0] < 70 and 150 < facts["from"][1] < 250 and facts["from"][2] == 400
    found = rows.read(mixed.path, ["source_round", "weight"]).to_pydict()
    assert set(zip(found["source_round"], found["weight"], strict=True)) == {(1, 0.5), (2, 0.5), (3, 1.0)}
    again = build(tmp_path / "again", "mix", settings, {"rows": tables})
    other = build(tmp_path / "other", "mix", settings, {"rows": tables}, seed=8)
    assert again.manifest.digest == mixed.manifest.digest != other.manifest.digest
    late = build(tmp_path / "late", "mix", settings, {"rows": tables[2:]})
    assert late.manifest.facts["from"] == [400], "in the first round there is nothing to replay"


def test_mix_keeps_an_id_once(tmp_path):
    one = _pairs(tmp_path, "r1", 1, 10)
    mixed = build(tmp_path / "mixed", "mix", {}, {"rows": [one, one]})
    assert mixed.manifest.facts["rows"] == mixed.manifest.facts["duplicates"] == 10


def test_mix_of_nothing_is_refused(tmp_path):
    with pytest.raises(Refusal, match="no pair is left of 10 in 1 tables"):
        build(tmp_path / "mixed", "mix", {"fractions": [0]}, {"rows": [_pairs(tmp_path, "r1", 1, 10)]})


# evaluate


def _report(artifact):
    return json.loads((artifact.path / "report.json").read_text())


def test_a_report_on_its_own(tmp_path):
    source = _candidates(tmp_path / "candidates", {"a": ["1", "2"], "b": ["22", "x"], "c": ["x", ""]}, {"a": "1", "b": "22"})
    made = build(tmp_path / "report", "evaluate", {"judge": "length"}, {"candidates": source})
    report = _report(made)
    assert report == made.manifest.facts
    assert (report["prompts"], report["responses"], report["accuracy"], report["accuracy_prompts"]) == (3, 6, 0.5, 2)
    assert report["mean_characters"] == report["mean_score"] == 1.0 and "win_rate" not in report
    assert report["accuracy_low"] == report["accuracy_high"] == 0.5


def test_head_to_head(tmp_path):
    """Ours wins every cross pair of a, half of those of b, none of c; the other side's rows come in another order."""
    ours = _candidates(tmp_path / "ours", {"a": ["333", "22"], "b": ["1", "333"], "c": ["1", "1"]}, dict.fromkeys("abc", "1"))
    theirs = _candidates(tmp_path / "theirs", {"c": ["22"], "b": ["22"], "a": ["1"]}, dict.fromkeys("abc", "1"))
    report = _report(build(tmp_path / "report", "evaluate", {"judge": "length"}, {"candidates": ours, "against": theirs}, rows_per_shard=2))
    assert report["win_rate"] == 0.5 and report["win_rate_prompts"] == 3
    assert report["win_rate_low"] <= 0.5 <= report["win_rate_high"]
    assert report["accuracy"] == round((0 + 0.5 + 1) / 3, 6) and report["against_accuracy"] == round(1 / 3, 6)
    assert report["responses"] == 6 and report["against_responses"] == 3
    swapped = _report(build(tmp_path / "swapped", "evaluate", {"judge": "length"}, {"candidates": theirs, "against": ours}))
    assert swapped["win_rate"] == 0.5 and swapped["mean_score"] == report["against_mean_score"]
    best = rows.read(tmp_path / "report" / "judged").to_pylist()
    assert [r["source"] for r in best[0]["responses"]] == ["candidates", "candidates", "against"]


def test_a_report_over_many_row_groups(tmp_path):
    """Against rows that come shuffled, over more rows than one Parquet row group."""
    keys = [f"{i:05d}" for i in range(2500)]
    mine = {k: ["x" * (int(k) % 7 + 1)] for k in keys}
    other = {k: ["y" * (int(k) % 5 + 1)] for k in random.Random(0).sample(keys, len(keys))}
    sides = {"candidates": _candidates(tmp_path / "mine", mine), "against": _candidates(tmp_path / "other", other)}
    report = _report(build(tmp_path / "report", "evaluate", {"judge": "length"}, sides, rows_per_shard=300))
    wanted = np.mean([np.sign(int(k) % 7 - int(k) % 5) / 2 + 0.5 for k in keys])
    assert report["win_rate"] == pytest.approx(wanted, abs=1e-6) and report["prompts"] == 2500
    assert report["win_rate_low"] < wanted < report["win_rate_high"] < report["win_rate_low"] + 0.05


def test_other_prompts_are_refused(tmp_path):
    sides = {
        "candidates": _candidates(tmp_path / "mine", {"a": ["1"], "b": ["1"]}),
        "against": _candidates(tmp_path / "other", {"b": ["1"]}),
    }
    with pytest.raises(Refusal, match="other lacks 1 of the 2 prompts asked for, such as 'a', and has 0 others; make"):
        build(tmp_path / "report", "evaluate", {"judge": "length"}, sides)


def test_a_judge_that_decides_nothing_is_refused(tmp_path):
    sides = {"candidates": _candidates(tmp_path / "mine", {"a": ["1"]}), "against": _candidates(tmp_path / "other", {"a": ["2"]})}
    with pytest.raises(Refusal, match="decided no comparison of 1 prompts"):
        build(tmp_path / "report", "evaluate", {"judge": "exact_answer"}, sides)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Bootstrap over prompts: of 300 samples from a known mean, some 95 % of the intervals hold it."""
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = _matches.interval(list(draw.binomial(4, 0.6, 80) / 4), 0.95, 400, int(draw.integers(1 << 30)))
        hits += low <= 0.6 <= high
    assert 0.90 < hits / 300 < 0.99


def test_stages_say_what_hardware_they_use(tmp_path):
    from pipeline.plugin import load

    for name in ("judge", "evaluate"):
        module = load("stages", name)
        settings = {"candidates": "x", "judge": {"kind": "pairrm", "model": "oracle"}}
        assert module.uses(module.Config.model_validate(settings)) == {"forward"}
        assert module.uses(module.Config.model_validate({**settings, "judge": "length"})) == set()
    assert placement(profile(), {"forward"}).workers == 1
