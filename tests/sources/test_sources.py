"""Sources: what they read, in which order, and the one sentence in which they refuse what is malformed."""

import json
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline import plugin
from pipeline.errors import Refusal
from sources import hub, jsonl, letters, parquet
from tests.support.steps import prompt


def _jsonl(tmp_path, *lines: str, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    return list(jsonl.read(jsonl.Config(path=path, **settings)))


def test_jsonl_reads_texts_and_messages(tmp_path):
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi 漢字"}]
    rows = [{"question": "2 + 2?", "answer": "4", "level": 1}, {"question": messages, "answer": None, "level": 2}]
    found = _jsonl(
        tmp_path, json.dumps(rows[0]), "", json.dumps(rows[1], ensure_ascii=False), column="question", answer="answer", keep=["level"]
    )
    assert [list(r.prompt) for r in found] == [prompt("2 + 2?"), messages]
    assert [r.meta for r in found] == [{"answer": "4", "level": 1}, {"answer": None, "level": 2}]
    assert found[0].response is None


def test_a_system_message_is_added_where_there_is_none(tmp_path):
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "b"}]
    found = _jsonl(tmp_path, json.dumps({"prompt": "a"}), json.dumps({"prompt": own}), system="be brief")
    assert [r.prompt[0]["content"] for r in found] == ["be brief", "own"]


def test_responses_are_texts_or_the_last_message(tmp_path):
    chosen = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    found = _jsonl(tmp_path, json.dumps({"prompt": "a", "r": "x"}), json.dumps({"prompt": "a", "r": chosen}), response="r")
    assert [r.response for r in found] == ["x", "b"]


@pytest.mark.parametrize(
    "lines, settings, sentence",
    [
        (['{"prompt": "a"}', '{"prompt": }'], {}, "rows.jsonl:2: is not JSON (Expecting value, column 12); mend the line, or remove it"),
        (['{"prompt": "a"}', "[1]"], {}, "rows.jsonl:2: is a JSON list, not an object"),
        (['{"promt": "a"}'], {}, "rows.jsonl:1: no field 'prompt'; did you mean 'promt'?"),
        (['{"prompt": " "}'], {}, "rows.jsonl:1: field 'prompt': the prompt is empty"),
        (['{"prompt": 3}'], {}, "a prompt is a text or a list of {role, content}, not 3"),
        (['{"prompt": [{"role": "robot", "content": "a"}]}'], {}, "a message is {role: system | user | assistant | tool, content: text}"),
        (['{"prompt": [{"role": "assistant", "content": "a"}]}'], {}, "ends with an assistant message"),
        (['{"prompt": "a", "r": 3}'], {"response": "r"}, "field 'r': a response is a text, not 3"),
        (["", "  "], {}, "rows.jsonl: holds no rows"),
        ([], {}, "rows.jsonl: holds no rows"),
    ],
)
def test_jsonl_refuses(tmp_path, lines, settings, sentence):
    with pytest.raises(Refusal) as refusal:
        _jsonl(tmp_path, *lines, **settings)
    assert sentence in str(refusal.value)


def test_jsonl_says_which_line_is_not_utf8(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(Refusal, match=r"rows.jsonl:2: is not UTF-8 \(byte 12\)"):
        list(jsonl.read(jsonl.Config(path=path)))


def test_files_that_are_not_there(tmp_path):
    for source, path in ((jsonl, tmp_path / "no.jsonl"), (jsonl, tmp_path), (parquet, tmp_path / "no.parquet"), (parquet, tmp_path)):
        with pytest.raises(Refusal, match=str(path)):
            list(source.read(source.Config(path=path)))


def test_parquet_reads_files_in_order(tmp_path):
    for at in (1, 0):
        pq.write_table(pa.table({"prompt": [f"{at}-{i}" for i in range(3)], "gold": [at, at, None]}), tmp_path / f"{at}.parquet")
    found = list(parquet.read(parquet.Config(path=tmp_path, answer="gold")))
    assert [r.prompt[0]["content"] for r in found] == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    assert [r.meta["answer"] for r in found] == [0, 0, None, 1, 1, None]


def test_parquet_reads_what_it_writes_as_prompts(tmp_path):
    from pipeline import rows

    rows.write(tmp_path, "prompts", [rows.from_pylist("prompts", [{"id": "x", "prompt": prompt("hi"), "meta": {}}])])
    assert [list(r.prompt) for r in parquet.read(parquet.Config(path=tmp_path))] == [prompt("hi")]


def test_parquet_refuses(tmp_path):
    pq.write_table(pa.table({"promt": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(Refusal, match=r"a.parquet: no column 'prompt'; did you mean 'promt'\?"):
        list(parquet.read(parquet.Config(path=tmp_path)))
    (tmp_path / "b.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(Refusal, match="b.parquet: cannot be read as Parquet"):
        list(parquet.read(parquet.Config(path=tmp_path / "b.parquet")))
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "c.parquet")
    with pytest.raises(Refusal, match="c.parquet: holds no rows"):
        list(parquet.read(parquet.Config(path=tmp_path / "c.parquet")))


def test_file_sources_say_which_bytes_they_read(tmp_path):
    _jsonl(tmp_path, '{"prompt": "a"}')
    one = jsonl.origin(jsonl.Config(path=tmp_path / "rows.jsonl"))
    _jsonl(tmp_path, '{"prompt": "b"}')
    assert one["path"] == str(tmp_path / "rows.jsonl") and jsonl.origin(jsonl.Config(path=tmp_path / "rows.jsonl")) != one


def test_a_hub_revision_is_a_full_commit():
    with pytest.raises(ValidationError):
        hub.Config(dataset="openai/gsm8k", revision="main")


def test_letters_is_right_where_it_is_not_corrupt():
    found = list(letters.read(letters.Config(count=200)))
    words = [r.prompt[0]["content"] for r in found]
    assert len(set(words)) == 200 and {len(w) for w in words} == {3, 4, 5, 6}
    assert all(r.meta["answer"] == "".join(sorted(w)) == r.response for r, w in zip(found, words, strict=True))


def test_letters_is_the_same_every_time_and_longer_counts_go_on():
    config = letters.Config(count=50, corrupt=0.5)
    assert list(letters.read(config)) == list(letters.read(config)) == list(islice(letters.read(letters.Config(count=99, corrupt=0.5)), 50))
    assert list(letters.read(letters.Config(count=50, corrupt=0.5, offset=1))) != list(letters.read(config))


def test_letters_splits_never_meet():
    """Whatever count, offset and lengths: a word has one split, so what is held out is never trained on."""
    seen: dict[str, str] = {}
    for split in ("train", "held_out", "demonstrations"):
        for offset in (0, 1):
            for record in letters.read(letters.Config(count=150, split=split, offset=offset, max_length=4)):
                assert seen.setdefault(record.prompt[0]["content"], split) == split
    assert len(set(seen.values())) == 3


def test_letters_slips_in_the_share_asked_for():
    found = list(letters.read(letters.Config(count=2000, corrupt=0.5, split="demonstrations")))
    wrong = [r for r in found if r.response != r.meta["answer"]]
    assert 0.45 < len(wrong) / 2000 < 0.55
    assert all(len(r.response) == len(r.meta["answer"]) for r in wrong)
    everything = letters.read(letters.Config(count=300, corrupt=1, max_length=3, alphabet="ab", min_length=3))
    with pytest.raises(Refusal, match="found .* of 300 different train words"):
        assert all(r.response != r.meta["answer"] for r in everything)


@pytest.mark.parametrize("settings", [{"min_length": 7}, {"template": "sort"}, {"alphabet": "aab"}, {"count": 0}])
def test_letters_settings_that_make_no_sense(settings):
    with pytest.raises(ValidationError):
        letters.Config(**{"count": 5, **settings})


def test_letters_template():
    (record,) = letters.read(letters.Config(count=1, template="sort {letters} > "))
    assert record.prompt[0]["content"].startswith("sort ") and record.prompt[0]["content"].endswith(" > ")


def test_every_source_has_a_plain_config():
    for kind in plugin.names("sources"):
        assert plugin.load("sources", kind).Config.model_json_schema()["properties"]
