"""The teacher is paid once: across runs, crashes, processes and failures; and what the cache holds is what was answered."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines import Completion, Response
from pipeline import artifact, recipe, rows, run
from pipeline.errors import Refusal
from stages.ask import store
from tests.support import steps
from tests.support.core import digests, profile
from tests.support.faulty_server import FaultyServer, planned, says
from tests.support.models import tiny_llama

QUICK = {"kind": "openai", "max_attempts": 6, "backoff_s": 0.01, "max_backoff_s": 0.05, "max_concurrency": 4}


def _recipe(tmp_path: Path, prompts: int = 30, name: str = "teacher-9", seed: int = 0, **settings):
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(prompts)))
    body = {
        "name": "teacher",
        "rounds": 1,
        "seed": seed,
        "start": {
            "teacher": {"stage": "adopt", "endpoint": name},
            "asked": {"stage": "prompts", "source": {"kind": "jsonl", "path": str(source)}},
            "answers": {"stage": "ask", "model": "teacher", "prompts": "asked", **settings},
        },
        "round": {"some": {"stage": "slice", "rows": "asked", "parts": 1}},
    }
    return recipe.make(body, "test")


def _machine(tmp_path: Path, server: FaultyServer, **engine):
    engine = {**QUICK, "base_url": server.base_url, **engine}
    return profile(answers=str(tmp_path / "cache"), rows_per_shard=8, overrides={"answers": {"engine": engine}})


def _facts(folder: Path) -> dict:
    made = artifact.read(folder / "start/answers")
    assert made is not None
    return made.manifest.facts


def _cache(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").glob("*.jsonl")
    return path


def test_each_prompt_is_asked_once_and_never_again(tmp_path):
    with FaultyServer(planned(4, kinds=("429", "500", "reset"))) as server:
        run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "one")
        table = rows.read(tmp_path / "one/start/answers").to_pylist()
        assert [row["responses"][0]["text"] for row in table] == [f"answer 0 to question {i}" for i in range(30)]
        assert {(len(row["responses"]), row["responses"][0]["source"], row["tokenizer"]) for row in table} == {(1, "teacher-9", None)}
        assert set(server.answered.values()) == {1} and len(server.answered) == 30
        facts = _facts(tmp_path / "one")
        assert facts == {
            "rows": 30, "asked": 30, "known": 0, "torn_lines": 0, "tokens": 90, "mean_length": 3.0, "tokenizer": None, "empty": 0,
            "prompt_tokens": sum(len(f"question {i}") for i in range(30)), "truncated": 0, "truncated_share": 0.0, "filtered": 0,
            "teacher": "teacher-9",
        }  # fmt: skip
        # Another run, another seed, another machine: nothing is paid, and the rows are the same.
        before = server.attempts.total()
        with FaultyServer() as moved:
            run.run(_recipe(tmp_path, seed=5), _machine(tmp_path, moved, max_concurrency=1), tmp_path / "two")
            assert not moved.attempts
        assert rows.read(tmp_path / "two/start/answers").to_pylist() == table
        assert (_facts(tmp_path / "two")["asked"], _facts(tmp_path / "two")["known"]) == (0, 30)
        # More prompts: only the new ones.
        run.run(_recipe(tmp_path, prompts=33), _machine(tmp_path, server), tmp_path / "more")
        assert _facts(tmp_path / "more")["asked"] == 3 and server.attempts.total() > before
        assert len(server.answered) == 33
        # Other settings, or another teacher, are other questions.
        run.run(_recipe(tmp_path, max_new_tokens=7), _machine(tmp_path, server), tmp_path / "short")
        run.run(_recipe(tmp_path, name="teacher-10"), _machine(tmp_path, server), tmp_path / "other")
        assert _facts(tmp_path / "short")["asked"] == _facts(tmp_path / "other")["asked"] == 30
    assert len(list((tmp_path / "cache").glob("*.jsonl"))) == 2
    assert _cache_mode(tmp_path) == {0o600}, "what was bought is for its owner's eyes"


def _cache_mode(tmp_path: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir()}


def _child(tmp_path: Path, server: FaultyServer, name: str) -> subprocess.Popen:
    code = (
        "import sys, pathlib\n"
        "from tests.stages import test_ask\n"
        "class Server: base_url = sys.argv[2]\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "test_ask.run.run(test_ask._recipe(path, 60), test_ask._machine(path, Server()), path / sys.argv[3])\n"
    )
    root = str(Path(recipe.__file__).parent.parent)
    call = [sys.executable, "-c", code, str(tmp_path), server.base_url, name]
    return subprocess.Popen(call, cwd=root, env={**os.environ, "PYTHONPATH": root}, start_new_session=True)


def _until(true) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_killed_step_asks_only_for_what_was_not_answered(tmp_path):
    """kill -9 three times on the way; of 60 prompts only those that were in flight are asked twice."""
    with FaultyServer(delay_s=0.03) as server:
        frozen, twice_at_most = {}, 0
        for stop_at in (9, 25, 47):
            child = _child(tmp_path, server, "killed")
            _until(lambda at=stop_at: len(server.answered) >= at)
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            twice_at_most += QUICK["max_concurrency"]
            known = {prompt for prompt, _ in _lines(tmp_path)}
            assert len(known) >= stop_at - QUICK["max_concurrency"]
            frozen |= {prompt: server.asked()[prompt] for prompt in known - set(frozen)}
        child = _child(tmp_path, server, "killed")
        assert child.wait(timeout=60) == 0
    asked = server.asked()
    assert {prompt: asked[prompt] for prompt in frozen} == frozen, "nothing that was in the cache is asked again"
    assert len(asked) == 60 and asked.total() <= 60 + twice_at_most
    print(f"\n60 prompts, killed three times: {asked.total() - 60} asked twice, at most {twice_at_most} were in flight")
    table = rows.read(tmp_path / "killed/start/answers").to_pylist()
    assert [row["responses"][0]["text"] for row in table] == [f"answer 0 to question {i}" for i in range(60)]
    with FaultyServer() as whole:
        clean = tmp_path / "clean"
        clean.mkdir()
        child = _child(clean, whole, "killed")
        assert child.wait(timeout=60) == 0
    assert digests(tmp_path / "killed")["start/answers"] == digests(clean / "killed")["start/answers"]


def _lines(tmp_path: Path) -> list[tuple[str, dict]]:
    """(prompt, line) of every answer on disk."""
    lines = [json.loads(line) for line in _cache(tmp_path).read_text().split("\n")[:-1]]
    return [(line["answer"]["response"]["text"].removeprefix("answer 0 to "), line) for line in lines]


def test_two_runs_at_once_pay_once(tmp_path):
    """Both want the same 60 answers: what one is asking, the other waits for."""
    with FaultyServer(delay_s=0.02) as server:
        children = [_child(tmp_path, server, name) for name in ("one", "two")]
        assert [child.wait(timeout=60) for child in children] == [0, 0]
    assert set(server.asked().values()) == {1} and len(server.asked()) == 60
    assert len(_lines(tmp_path)) == 60
    one, two = _facts(tmp_path / "one"), _facts(tmp_path / "two")
    assert one["asked"] + two["asked"] == 60
    print(f"\ntwo runs at once asked {one['asked']} and {two['asked']}")
    assert digests(tmp_path / "one")["start/answers"] == digests(tmp_path / "two")["start/answers"]


def test_what_another_process_leaves_unanswered_is_asked(tmp_path):
    """A process that claimed a question and died gives it back."""
    with FaultyServer(delay_s=0.5) as server:
        slow = _child(tmp_path, server, "slow")
        _until(lambda: len(server.in_flight) == 4)
        quick = _child(tmp_path, server, "quick")
        time.sleep(0.2)
        os.killpg(slow.pid, signal.SIGKILL)
        slow.wait()
        server.delay_s = 0.0
        assert quick.wait(timeout=60) == 0
    assert len(server.asked()) == 60 and server.asked().total() <= 60 + 8


def test_answers_before_a_refusal_are_kept(tmp_path):
    def answer(body):
        return (400, {"error": {"message": "indecent"}}) if body["messages"][-1]["content"] == "question 20" else says(body)

    with FaultyServer(answer=answer) as server:
        said = r"start/answers: prompt '[0-9a-f]{16}': .* refused: 400, 'indecent'; .* \(answers so far are kept\)"
        with pytest.raises(Refusal, match=said):
            run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "run")
        paid = set(server.answered)
        assert len(paid) >= 20
        server.answer = says
        run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "run")
    assert {mark for mark, n in server.attempts.items() if n > 1} == {m for m, p in server.prompts.items() if p == "question 20"}


def test_a_torn_last_line_is_cut_off_and_counted(tmp_path):
    with FaultyServer() as server:
        run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "run")
        whole = _cache(tmp_path).read_bytes()
        *rest, last = whole.split(b"\n")[:-1]
        asked = (last.decode(), len(whole) - len(last) - 1)
        lost = json.loads(asked[0])["answer"]["response"]["text"].removeprefix("answer 0 to ")
        for i, tail in enumerate((last[:1], last[:-1], last, last[: len(last) // 2], bytes(5000), last[:-9] + b"\0" * 8 + b"}\n")):
            _cache(tmp_path).write_bytes(whole[: asked[1]] + tail)
            before = server.attempts.total()
            run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / f"again-{i}")
            facts = _facts(tmp_path / f"again-{i}")
            assert (facts["torn_lines"], facts["asked"], facts["known"]) == (1, 1, 29), tail
            assert server.attempts.total() == before + 1 and server.bodies[-1]["messages"][-1]["content"] == lost
            assert sorted(_cache(tmp_path).read_bytes().split(b"\n")) == sorted(whole.split(b"\n"))


def test_a_damaged_line_is_refused_by_its_number(tmp_path):
    """Asking again would pay again, so it is the user's to decide."""
    with FaultyServer() as server:
        run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "run")
        whole = _cache(tmp_path).read_bytes()
        _cache(tmp_path).write_bytes(whole.replace(b'answer 0 to question 3"', b'answer 1 to question 3"'))
        number = next(n for n, line in enumerate(whole.split(b"\n"), 1) if b'to question 3"' in line)
        with pytest.raises(Refusal, match=rf"start/answers: .*\.jsonl:{number}: is damaged, its checksum does not fit; .* remove the line"):
            run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "again")
        lines = whole.split(b"\n")
        _cache(tmp_path).write_bytes(b"\n".join(lines[: number - 1] + lines[number:]))
        before = server.attempts.total()
        run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "again")
        assert server.attempts.total() == before + 1


def test_equal_prompts_under_two_ids_are_one_question(tmp_path):
    prompts = [{"id": f"p{i}", "prompt": steps.prompt(f"question {i % 5}"), "meta": {"i": i}} for i in range(12)]
    teacher = steps.build(tmp_path / "teacher", "adopt", {"endpoint": "t"})
    inputs = {"model": teacher, "prompts": steps.table(tmp_path / "prompts", "prompts", prompts)}
    with FaultyServer() as server:
        machine = {"engine": {**QUICK, "base_url": server.base_url}, "answers": str(tmp_path / "cache"), "rows_per_shard": 7}
        made = steps.build(tmp_path / "answers", "ask", {}, inputs, **machine)
    assert server.attempts.total() == 5 and made.manifest.facts["known"] == 7
    table = rows.read(made.path).to_pylist()
    assert [row["responses"][0]["text"] for row in table] == [f"answer 0 to question {i % 5}" for i in range(12)]
    assert [json.loads(row["meta"]) for row in table] == [{"i": i} for i in range(12)]


def test_a_teacher_may_be_a_model_with_weights(tmp_path):
    """Its token ids are kept, its digest tells it from others, and a script's answers never pass as its own."""
    inputs = {
        "prompts": steps.table(tmp_path / "prompts", "prompts", [{"id": f"p{i}", "prompt": steps.prompt("abc"[:i])} for i in range(3)])
    }
    models = [steps.folder(tiny_llama(tmp_path / f"model-{seed}", seed=seed)) for seed in (0, 1)]
    real = {"engine": {"kind": "transformers", "threads": 1}, "answers": str(tmp_path / "cache")}
    scripted = {"engine": {"kind": "canned"}, "answers": str(tmp_path / "cache")}

    def asked(name, model, **machine):
        return steps.build(tmp_path / name, "ask", {"max_new_tokens": 5}, {**inputs, "model": models[model]}, **machine)

    canned, first, again, other = asked("a", 0, **scripted), asked("b", 0, **real), asked("c", 0, **real), asked("d", 1, **real)
    assert [made.manifest.facts["asked"] for made in (canned, first, again, other)] == [3, 3, 0, 3]
    assert rows.read(first.path).to_pylist() == rows.read(again.path).to_pylist()
    for row in rows.read(again.path).to_pylist():
        (response,) = row["responses"]
        assert row["tokenizer"] == again.manifest.facts["tokenizer"] and row["prompt_token_ids"]
        assert 1 <= len(response["token_ids"]) <= 5 and response["logprob"] < 0
    texts = [[row["responses"][0]["text"] for row in rows.read(made.path).to_pylist()] for made in (canned, first, other)]
    assert len(set(map(tuple, texts))) == 3


def test_an_answer_comes_back_as_it_was(tmp_path):
    completions = [
        Completion((1, 2), (Response("naïve 東京\n\u2028\x85 🦊", (3, 4), (-0.1, -1e-9), "stop"),)),
        Completion((), (Response("", (), (), "content_filter"),), counted=(7, 0)),
    ]
    answers = store.Answers(tmp_path, "ab" * 16, "org/some model: v1")
    for i, completion in enumerate(completions):
        answers.append(f"{i:032x}", store.pack(completion, "f" if i == 0 else None))
    answers.close()
    assert answers.path.name == "org-some-model-v1-abababababababab.jsonl"
    again = store.Answers(tmp_path, "ab" * 16, "org/some model: v1")
    for i, completion in enumerate(completions):
        found, tokenizer = store.unpack(again.get(f"{i:032x}"))
        assert found.responses == completion.responses and found.prompt_token_ids == completion.prompt_token_ids
        assert tokenizer == ("f" if i == 0 else None)
        assert (found.prompt_tokens, found.response_tokens) == (completion.prompt_tokens, completion.response_tokens)
    assert f"{9:032x}" not in again
    again.close()


# What a teacher refuses.


def _prudish(*numbers, status=400):
    """An endpoint that refuses some questions, and answers the others."""

    def answer(body):
        asked = body["messages"][-1]["content"]
        return (status, {"error": {"message": "indecent"}}) if asked in {f"question {n}" for n in numbers} else says(body)

    return answer


def _ids(folder: Path, *numbers: int) -> list[str]:
    by_text = {row["prompt"][-1]["content"]: row["id"] for row in rows.read(folder / "start/asked").to_pylist()}
    return [by_text[f"question {n}"] for n in numbers]


def test_refused_prompts_are_left_out_counted_and_not_asked_again(tmp_path):
    skip = {"on_refusal": "skip", "max_refused": 0.2}
    with FaultyServer(answer=_prudish(3, 4, 20, 29)) as server:
        run.run(_recipe(tmp_path, **skip), _machine(tmp_path, server), tmp_path / "run")
        table = rows.read(tmp_path / "run/start/answers").to_pylist()
        expected = [f"answer 0 to question {i}" for i in range(30) if i not in (3, 4, 20, 29)]
        assert [row["responses"][0]["text"] for row in table] == expected
        facts = _facts(tmp_path / "run")
        assert (facts["rows"], facts["asked"], facts["known"], facts["refused"]) == (26, 26, 0, 4)
        assert facts["refused_ids"] == _ids(tmp_path / "run", 3, 4, 20)
        assert max(n for prompt, n in server.asked().items() if prompt not in {f"question {i}" for i in (3, 4, 20, 29)}) == 1
        before = server.attempts.total()
        run.run(_recipe(tmp_path, **skip), _machine(tmp_path, server), tmp_path / "again")
        assert server.attempts.total() == before, "answers and refusals are remembered"
        assert digests(tmp_path / "again")["start/answers"] == digests(tmp_path / "run")["start/answers"]
        assert (_facts(tmp_path / "again")["asked"], _facts(tmp_path / "again")["refused"]) == (0, 4)
        # Whoever does not skip asks again, and is told which one it is and what to do.
        with pytest.raises(Refusal, match=rf"prompt '{_ids(tmp_path / 'run', 3)[0]}': .* 'indecent'; .*; `on_refusal: skip` leaves"):
            run.run(_recipe(tmp_path), _machine(tmp_path, server, max_concurrency=1), tmp_path / "strict")
        # An answer that comes in the end counts for whoever skips.
        server.answer = says
        run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "strict")
        run.run(_recipe(tmp_path, **skip), _machine(tmp_path, server), tmp_path / "late")
    assert _facts(tmp_path / "strict")["rows"] == _facts(tmp_path / "late")["rows"] == 30 and _facts(tmp_path / "late")["refused"] == 0
    assert digests(tmp_path / "late")["start/answers"] == digests(tmp_path / "strict")["start/answers"]


def test_a_killed_step_does_not_ask_refused_prompts_again(tmp_path):
    """The step dies of a wrong key after it was refused some prompts; the next attempt asks none of them."""
    skip = {"on_refusal": "skip", "max_refused": 0.5}
    with FaultyServer(answer=_prudish(1, 9)) as server:
        prudish = server.answer
        server.answer = lambda body: (401, {"error": "who are you"}) if body["messages"][-1]["content"] == "question 27" else prudish(body)
        with pytest.raises(Refusal, match="refused: 401, 'who are you'; .* \\(answers so far are kept\\)"):
            run.run(_recipe(tmp_path, **skip), _machine(tmp_path, server, max_concurrency=1), tmp_path / "run")
        server.answer = prudish
        run.run(_recipe(tmp_path, **skip), _machine(tmp_path, server, max_concurrency=1), tmp_path / "run")
    assert {prompt: n for prompt, n in server.asked().items() if n > 1} == {"question 27": 2}
    assert _facts(tmp_path / "run")["refused"] == 2


def test_too_many_refusals_fail_the_step(tmp_path):
    with FaultyServer(answer=_prudish(*range(12, 16))) as server:
        with pytest.raises(
            Refusal, match=r"refuses \d of 30 prompts, such as '[0-9a-f]{16}'.* at most 5.0% .*remove it to have them"
        ) as told:
            run.run(_recipe(tmp_path, on_refusal="skip"), _machine(tmp_path, server), tmp_path / "run")
        with pytest.raises(Refusal, match="refuses 4 of 30"):
            run.run(_recipe(tmp_path, on_refusal="skip", max_refused=0.11), _machine(tmp_path, server), tmp_path / "run")
        asked = server.asked()
        run.run(_recipe(tmp_path, on_refusal="skip", max_refused=0.14), _machine(tmp_path, server), tmp_path / "run")
        assert _facts(tmp_path / "run")["refused"] == 4
        assert all(n == 1 for prompt, n in server.asked().items() if prompt not in {f"question {i}" for i in range(12, 16)})
        assert asked.keys() <= server.asked().keys()
        # The file that the message names is all that stands between a refused prompt and being asked again.
        (path,) = [Path(word) for word in str(told.value).split() if word.endswith(".jsonl")]
        assert json.loads(path.read_text().splitlines()[0])["answer"]["said"].endswith("run again")
        path.unlink()
        server.answer = says
        run.run(_recipe(tmp_path, on_refusal="skip"), _machine(tmp_path, server), tmp_path / "mended")
    assert _facts(tmp_path / "mended")["rows"] == 30


def test_after_a_failure_of_many_refusals_they_can_be_asked_again(tmp_path):
    """All shards were made, with prompts left out; once the refusals are thrown away, the same step asks them."""
    with FaultyServer(answer=_prudish(3, 12, 20)) as server:
        with pytest.raises(Refusal, match="refuses 3 of 30") as told:
            run.run(_recipe(tmp_path, on_refusal="skip"), _machine(tmp_path, server), tmp_path / "run")
        (path,) = [Path(word) for word in str(told.value).split() if word.endswith(".jsonl")]
        path.unlink()
        server.answer = says
        run.run(_recipe(tmp_path, on_refusal="skip"), _machine(tmp_path, server), tmp_path / "run")
    assert _facts(tmp_path / "run")["rows"] == 30 and _facts(tmp_path / "run")["known"] == 27


def test_answers_with_gaps_are_judged_beside_others(tmp_path):
    """The prompts that were answered, of a table that has them all."""
    others = steps.table(tmp_path / "others", "candidates", steps.candidates({f"p{i}": ["longer than that"] for i in range(4)}))
    answered = steps.table(tmp_path / "answered", "candidates", steps.candidates({f"p{i}": ["short"] for i in (0, 3)}))
    inputs = {"candidates": [answered, others]}
    with pytest.raises(Refusal, match="others"):
        steps.build(tmp_path / "all", "judge", {"judge": "length"}, inputs)
    made = steps.build(tmp_path / "judged", "judge", {"judge": "length"}, {**inputs, "prompts": answered})
    assert [(row["id"], len(row["scores"])) for row in rows.read(made.path).to_pylist()] == [("p0", 2), ("p3", 2)]


def test_a_whole_shard_may_be_refused(tmp_path):
    with FaultyServer(answer=_prudish(*range(8), status=422)) as server:
        run.run(_recipe(tmp_path, on_refusal="skip", max_refused=0.5), _machine(tmp_path, server), tmp_path / "run")
    assert [row["id"] for row in rows.read(tmp_path / "run/start/answers").to_pylist()] == _ids(tmp_path / "run", *range(8, 30))


def test_what_leaves_no_room_for_an_answer_can_be_left_out(tmp_path):
    """An engine with weights says so itself, before it answers anything."""
    model = steps.folder(tiny_llama(tmp_path / "model"))
    prompts = [{"id": f"p{i}", "prompt": steps.prompt("a b " * (2000 if i in (1, 2) else 1))} for i in range(4)]
    inputs = {"model": model, "prompts": steps.table(tmp_path / "prompts", "prompts", prompts)}
    machine = {"engine": {"kind": "transformers", "threads": 1}, "answers": str(tmp_path / "cache")}
    with pytest.raises(Refusal, match="prompt 'p1' has .* tokens and the context of the teacher holds .* or set `on_refusal: skip`"):
        steps.build(tmp_path / "strict", "ask", {"max_new_tokens": 5}, inputs, **machine)
    made = steps.build(tmp_path / "skips", "ask", {"max_new_tokens": 5, "on_refusal": "skip", "max_refused": 0.5}, inputs, **machine)
    assert [row["id"] for row in rows.read(made.path).to_pylist()] == ["p0", "p3"]
    assert (made.manifest.facts["refused"], made.manifest.facts["refused_ids"]) == (2, ["p1", "p2"])


def test_settings_of_refusals_ask_nothing_again(tmp_path):
    """They are no part of what is asked, so answers of before they existed are found."""
    with FaultyServer() as server:
        run.run(_recipe(tmp_path), _machine(tmp_path, server), tmp_path / "one")
        before = server.attempts.total()
        run.run(_recipe(tmp_path, on_refusal="skip", max_refused=0.3), _machine(tmp_path, server), tmp_path / "two")
        assert server.attempts.total() == before
    assert digests(tmp_path / "one")["start/answers"] == digests(tmp_path / "two")["start/answers"]


@pytest.mark.parametrize("kind", ["rubric", "pairwise", "joint"])
def test_a_judge_that_is_refused_names_the_prompt(kind, tmp_path):
    """An endpoint that judges, and will not for one prompt."""

    def answer(body):
        if "question 5" in body["messages"][-1]["content"]:
            return 400, {"error": {"message": "indecent"}}
        status, said = says(body)
        for choice in said["choices"]:
            choice["message"]["content"] = "Score: 3\nVerdict: A\nid1_score: 3\nid2_score: 4"
        return status, said

    texts = steps.candidates({f"p{i}": ["one answer", "another"] for i in range(8)})
    for i, row in enumerate(texts):
        row["prompt"] = steps.prompt(f"question {i}")
    inputs = {"candidates": steps.table(tmp_path / "candidates", "candidates", texts)}
    inputs["judge.model"] = steps.build(tmp_path / "judge", "adopt", {"endpoint": "j"})
    settings = {"judge": {"kind": kind, "model": "m", **({"mode": "strict"} if kind == "pairwise" else {})}, "position_rate": None}
    with FaultyServer(answer=answer) as server:
        machine = {"engine": {**QUICK, "base_url": server.base_url}, "rows_per_shard": 3}
        with pytest.raises(Refusal, match=r"^prompt 'p5': http.*refused: 400, 'indecent'"):
            steps.build(tmp_path / "judged", "judge", settings, inputs, **machine)
