"""The generate stage: every prompt is asked once, what was sampled is on disk, and its seeds depend on ids alone."""

import json
import time

import pytest
from transformers import AutoTokenizer

from models.chat import fingerprint, render
from pipeline import recipe, rows, run
from pipeline.errors import Refusal
from pipeline.plugin import load
from stages import generate
from tests.support import steps
from tests.support.core import digests, profile
from tests.support.models import tiny_llama
from tests.support.steps import on_disk

PROMPTS = [{"id": f"p{i}", "prompt": steps.prompt("sort these: " + "hgfedcba"[: i % 8]), "meta": {"answer": str(i)}} for i in range(40)]
LAPTOP = {"engine": {"kind": "transformers", "threads": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return steps.folder(tiny_llama(tmp_path_factory.mktemp("generate") / "model"))


def _generate(path, model, prompts=PROMPTS, *, settings=None, **changes):
    inputs = {"model": model, "prompts": steps.table(path.with_name(path.name + "-prompts"), "prompts", prompts)}
    return steps.build(path, "generate", {"max_new_tokens": 12, **(settings or {})}, inputs, **changes)


def test_what_is_on_disk_is_what_was_sampled(tmp_path, model):
    made = _generate(tmp_path / "candidates", model, settings={"n": 3, "top_p": 0.9}, rows_per_shard=16, **LAPTOP)
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    table = rows.read(made.path).to_pylist()
    assert [row["id"] for row in table] == [row["id"] for row in PROMPTS]
    for row, asked in zip(table, PROMPTS, strict=True):
        assert row["prompt"] == on_disk(asked["prompt"]) and json.loads(row["meta"]) == asked["meta"]
        assert row["prompt_token_ids"] == render(tokenizer, asked["prompt"])
        assert len(row["responses"]) == 3
        for response in row["responses"]:
            assert response["text"] == tokenizer.decode(response["token_ids"], skip_special_tokens=True)
            assert response["source"] == "round-01/candidates" and response["logprob"] < 0
            assert response["finish_reason"] == ("stop" if response["token_ids"][-1] == tokenizer.eos_token_id else "length")
    responses = [response for row in table for response in row["responses"]]
    facts = made.manifest.facts
    truncated = sum(response["finish_reason"] == "length" for response in responses)
    assert facts == {
        "rows": 40,
        "responses": 120,
        "tokens": sum(len(response["token_ids"]) for response in responses),
        "prompt_tokens": sum(len(row["prompt_token_ids"]) for row in table),
        "cached_tokens": 0,
        "truncated": truncated,
        "empty": sum(not response["text"].strip() for response in responses),
        "truncated_share": truncated / 120,
        "mean_length": facts["tokens"] / 120,
        "tokenizer": fingerprint(tokenizer),
    }


def test_a_response_depends_on_its_prompts_id_not_on_its_place(tmp_path, model):
    def sampled(name, prompts, size):
        made = _generate(tmp_path / name, model, prompts, settings={"n": 2}, rows_per_shard=size, **LAPTOP)
        return {row["id"]: [r["token_ids"] for r in row["responses"]] for row in rows.read(made.path).to_pylist()}

    whole = sampled("whole", PROMPTS, 256)
    assert sampled("split", PROMPTS, 3) == whole
    assert sampled("some", PROMPTS[30:10:-1], 256) == {row["id"]: whole[row["id"]] for row in PROMPTS[11:31]}
    twins = sampled("twins", [{**PROMPTS[0], "id": id} for id in ("a", "b")], 256)
    assert twins["a"] != twins["b"], "equal prompts under two ids are two samples"


def test_a_prompt_without_room_is_named(tmp_path, model):
    long = [*PROMPTS[:3], {"id": "the-long-one", "prompt": steps.prompt("x" * 600), "meta": {}}]
    with pytest.raises(Refusal, match=r"round-01/candidates: prompt 'the-long-one' has 603 tokens and the context .* holds 512"):
        _generate(tmp_path / "candidates", model, long, **LAPTOP)


def test_no_prompts_are_no_candidates(tmp_path, model):
    made = _generate(tmp_path / "candidates", model, [])
    assert made.manifest.facts["rows"] == 0 and made.manifest.facts["mean_length"] == 0.0
    assert rows.count(made.path) == 0


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"temperature": 0, "n": 2}, "temperature 0 would give the same response n = 2 times; set n: 1"),
        ({"stop": ["\n", ""]}, "stop: an empty text would end every response at once"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        generate.Config.model_validate({"model": "m", "prompts": "p", **settings})
    assert generate.Config(model="m", prompts="p", temperature=0, n=1).n == 1


def test_a_missing_model_and_a_missing_template_are_refused(tmp_path, model):
    untemplated = steps.folder(tiny_llama(tmp_path / "untemplated", template=False))
    with pytest.raises(Refusal, match="its tokenizer has no chat template"):
        _generate(tmp_path / "candidates", untemplated, **LAPTOP)


def test_many_rows_of_the_script_are_fast_and_split_without_a_trace(tmp_path, model):
    prompts = [{"id": f"p{i}", "prompt": steps.prompt(f"question {i}"), "meta": {}} for i in range(6000)]
    one = _generate(tmp_path / "one", model, prompts, settings={"max_new_tokens": 100}, rows_per_shard=6000)
    began = time.process_time()
    two = _generate(tmp_path / "two", model, prompts, settings={"max_new_tokens": 100}, rows_per_shard=1024)
    assert 6000 / (time.process_time() - began) > 2500
    columns = ["id", "prompt_token_ids", "tokenizer", "responses"]
    strip = [{**row, "responses": [{**r, "source": ""} for r in row["responses"]]} for row in rows.read(one.path, columns).to_pylist()]
    assert strip == [
        {**row, "responses": [{**r, "source": ""} for r in row["responses"]]} for row in rows.read(two.path, columns).to_pylist()
    ]


def test_through_the_runner(tmp_path, model):
    """Two rounds from a recipe: each round samples anew, and a second run builds nothing."""
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"sort {'gfedcba'[: i % 7 + 1]} {i}"}) + "\n" for i in range(20)))
    body = {
        "name": "generate",
        "rounds": 2,
        "start": {
            "policy": {"stage": "adopt", "model": str(model.path)},
            "asked": {"stage": "prompts", "source": {"kind": "jsonl", "path": str(source)}},
        },
        "round": {"candidates": {"stage": "generate", "model": "policy@start", "prompts": "asked", "n": 2, "max_new_tokens": 8}},
    }
    asked = recipe.make(body, "test")
    laptop = profile(engine={"kind": "transformers", "threads": 1})
    built = run.run(asked, laptop, tmp_path / "run")
    assert built[-2:] == ["round-01/candidates", "round-02/candidates"]
    first, second = (rows.read(tmp_path / "run" / address).to_pylist() for address in built[-2:])
    assert [row["id"] for row in first] == [row["id"] for row in second]
    assert sum(a["responses"] == b["responses"] for a, b in zip(first, second, strict=True)) == 0
    assert {r["source"] for row in second for r in row["responses"]} == {"round-02/candidates"}
    assert run.run(asked, laptop, tmp_path / "run") == []
    run.run(asked, laptop, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "run")


def test_estimates_come_from_the_prompts_alone():
    config = load("stages", "generate").Config(model="m", prompts="p", n=4, max_new_tokens=10)
    assert generate.estimate(config, {"model": None, "prompts": 7}, 1) == {"rows": 7, "tokens": 280}
    assert generate.estimate(config, {"model": None, "prompts": None}, 1) == {"rows": None, "tokens": None}
