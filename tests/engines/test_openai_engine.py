"""The HTTP engine against an endpoint that fails in every way there is: nothing lost, nothing twice, and the key stays where it is."""

import json
import logging
import time
from pathlib import Path

import httpx2
import pytest

from engines import Request, RequestRefused, openai
from engines.openai import http
from models import Endpoint, Model
from pipeline import artifact, recipe, rows, run
from pipeline.errors import Refusal
from pipeline.plan import plan
from tests.support import steps
from tests.support.core import profile
from tests.support.engine_contract import ask
from tests.support.faulty_server import KINDS, FaultyServer, planned, says
from tests.support.models import tiny_llama

KEY = "sk-do-not-tell-7f3a9c"
QUICK = {"max_attempts": 6, "backoff_s": 0.01, "max_backoff_s": 0.05, "read_timeout_s": 10, "total_timeout_s": 20, "max_concurrency": 8}


@pytest.fixture
def model():
    return Endpoint("teacher-9", None)


def opened(server: FaultyServer, model: Model | Endpoint, **settings):
    return openai.open(openai.Config.model_validate({"base_url": server.base_url, **QUICK, **settings}), model, seed=3)


def test_answers_come_back_in_order(model):
    with FaultyServer(delay_s=0.03) as server, opened(server, model) as engine:
        requests = [ask(f"q{i}", n=1 + i % 3, seed=i, temperature=0.5, top_p=0.9, max_new_tokens=7, stop=("x",)) for i in range(40)]
        completions = engine.complete(requests)
        assert engine.complete([]) == [] and engine.tokenizer is None
    for i, completion in enumerate(completions):
        assert [r.text for r in completion.responses] == [f"answer {k} to q{i}" for k in range(1 + i % 3)]
        assert {(r.finish_reason, r.token_ids, r.logprobs) for r in completion.responses} == {("stop", (), ())}
        assert completion.prompt_token_ids == () and completion.counted == (len(f"q{i}"), 3 * len(completion.responses))
    assert 2 < server.peak <= QUICK["max_concurrency"]
    assert server.keys == {None}, "no key was configured"
    (body,) = [body for body in server.bodies if body["messages"] == [{"role": "user", "content": "q4"}]]
    assert {name: body[name] for name in body if name != "messages"} == {
        "model": "teacher-9", "temperature": 0.5, "top_p": 0.9, "n": 2, "seed": 4, "max_tokens": 7, "stop": ["x"],
    }  # fmt: skip


def test_every_kind_of_failure_is_survived(model):
    """Each request fails up to three times in some way; all are answered, each by one answer, and none is asked without need."""
    limits = {"max_concurrency": 32, "read_timeout_s": 2, "total_timeout_s": 3}
    kinds = tuple(kind for kind in KINDS if not kind.startswith("429-"))  # those are slow, and have a test of their own
    faults = planned(1, kinds=kinds)
    with FaultyServer(faults) as server, opened(server, model, **limits) as engine:
        heard = []
        completions = engine.complete_each([ask(f"q{i}", seed=i) for i in range(120)], lambda i, completion: heard.append(i))
        assert engine.attempts == (sum(server.attempts.values()), sum(server.injected.values()))
    assert [completion.responses[0].text for completion in completions] == [f"answer 0 to q{i}" for i in range(120)]
    assert sorted(heard) == list(range(120)) and heard != sorted(heard)
    assert set(server.injected) == set(kinds), "the test wants every kind of fault"
    assert len(server.answered) == 120 and set(server.answered.values()) == {1}, "one key for all attempts at a request"
    for mark, tried in server.attempts.items():
        assert tried == 1 + next(n for n in range(5) if faults(mark, n) is None)


@pytest.mark.parametrize("kind", ["429-seconds", "429-date"])
def test_a_server_that_asks_for_time_gets_it(model, kind):
    """Retry-After holds back the request that was told, and every other one too."""
    first: list[str] = []

    def fault(mark: str, attempt: int) -> str | None:
        first.append(mark)
        return kind if first[0] == mark and attempt == 0 else None

    with FaultyServer(fault) as server, opened(server, model, max_concurrency=2) as engine:
        engine.complete([ask(f"q{i}") for i in range(6)])
    began = server.times[first[0]][0]
    assert 0.95 < server.times[first[0]][1] - began < 2.5
    early = [mark for mark, times in server.times.items() if times[0] - began < 0.95]
    assert len(early) <= 3, "what was on its way may arrive; nothing else does"


def test_retry_after_is_read_in_both_forms():
    read = http.retry_after
    assert read(httpx2.Headers({"retry-after": "7"})) == 7 and read(httpx2.Headers({"retry-after": "0.5"})) == 0.5
    sent = {"date": "Tue, 03 Nov 2026 10:00:00 GMT"}
    assert read(httpx2.Headers({**sent, "retry-after": "Tue, 03 Nov 2026 10:01:30 GMT"})) == 90, "by the server's clock"
    for value in ("", "soon", "-3", "Tue, 03 Nov 2026 09:00:00 GMT"):
        assert read(httpx2.Headers({**sent, "retry-after": value})) == 0
    assert read(httpx2.Headers()) == 0


def test_a_server_that_asks_for_too_much_time_ends_the_step(model):
    with FaultyServer(lambda mark, attempt: "429-seconds") as server, opened(server, model, max_retry_after_s=0.5) as engine:
        with pytest.raises(RequestRefused, match=r"asks to wait 1 s \(429, 'slow down'\), and max_retry_after_s is 0.5; run again later"):
            engine.complete([ask("q")])
        assert sum(server.attempts.values()) == 1


@pytest.mark.parametrize(
    "kind, said",
    [
        ("503", "no answer in 4 attempts, the last: 503, 'trouble 503'; see whether the endpoint is well"),
        ("silence", "no answer in 4 attempts, the last: ReadTimeout"),
        ("drip", "no answer in 4 attempts, the last: no whole answer within 0.3 s"),
        ("truncated", "the last: RemoteProtocolError peer closed connection without sending complete message body"),
        ("malformed", r"the last: malformed answer \("),
        ("reset", "no answer in 4 attempts, the last: Read"),
    ],
)
def test_attempts_are_limited(model, kind, said):
    limits = {"max_attempts": 4, "read_timeout_s": 0.2, "total_timeout_s": 0.3}
    with FaultyServer(lambda mark, attempt: kind) as server, opened(server, model, **limits) as engine:
        with pytest.raises(RequestRefused, match=said):
            engine.complete([ask("q")])
        assert list(server.attempts.values()) == [4]


def test_nobody_at_home_is_said(model):
    with FaultyServer() as server:
        pass
    with opened(server, model, max_attempts=2) as engine, pytest.raises(RequestRefused, match="in 2 attempts, the last: ConnectError"):
        engine.complete([ask("q")])


def test_what_the_endpoint_refuses_is_not_asked_again(model):
    """What is in flight meanwhile is awaited and handed on, for it is paid for; nothing new is begun."""

    def answer(body):
        bad = body["messages"][-1]["content"] == "q3"
        return (400, {"error": {"message": "this prompt is\nindecent"}}) if bad else (time.sleep(0.1), says(body))[1]

    heard: list[int] = []
    with FaultyServer(answer=answer) as server, opened(server, model, max_concurrency=4) as engine:
        with pytest.raises(RequestRefused, match="refused: 400, 'this prompt is indecent'; change the request") as refused:
            engine.complete_each([ask(f"q{i}") for i in range(50)], lambda i, completion: heard.append(i))
        assert refused.value.index == 3
        assert sorted(heard) == [0, 1, 2] and sum(server.attempts.values()) == 4
        assert engine.complete([ask("q1")])[0].responses, "the engine is as good as before"


def test_waits_are_jittered_by_seed_and_bounded(model):
    config = openai.Config(base_url="http://127.0.0.1:1", backoff_s=0.5, max_backoff_s=8)
    client, same, other = (http.Client(config, None, seed) for seed in (1, 1, 2))
    for tried, bound in ((1, 0.5), (2, 1), (4, 4), (5, 8), (9, 8), (5000, 8)):
        drawn = [client._jitter(f"m{i}", tried) for i in range(400)]
        assert drawn == [same._jitter(f"m{i}", tried) for i in range(400)] != [other._jitter(f"m{i}", tried) for i in range(400)]
        assert 0 <= min(drawn) < 0.05 * bound and 0.95 * bound < max(drawn) <= bound
        assert abs(sum(drawn) / 400 / bound - 0.5) < 0.06


def test_an_endpoint_without_n_is_asked_n_times(model):
    with FaultyServer(answer=lambda body: says({**body, "n": 1})) as server:
        with opened(server, model, omit=["n", "seed"]) as engine:
            (completion,) = engine.complete([ask("q", n=3)])
            assert len(completion.responses) == 3 and completion.counted == (3, 9)
            assert len(server.attempts) == 3 and not {"n", "seed"} & set(server.bodies[0])
        with (
            opened(server, model) as engine,
            pytest.raises(RequestRefused, match=r"gave 1 responses where 3 were asked for; set `omit: \[n\]`"),
        ):
            engine.complete([ask("q", n=3)])
        with opened(server, model, omit=["n"]) as engine:
            engine.complete([ask("q", n=2, seed=8)])
            assert [body["seed"] for body in server.bodies[-2:]] in ([8, 9], [9, 8]), "samples differ"


@pytest.mark.parametrize(
    "request_, said",
    [
        (ask("q", top_k=5), "top_k 5 is asked for, and the OpenAI API has none"),
        (ask("q", temperature=0.5), "temperature 0.5 is asked for, and the profile's omit says"),
    ],
)
def test_nothing_is_sampled_otherwise_than_asked(model, request_: Request, said):
    with FaultyServer() as server, opened(server, model, omit=["temperature"]) as engine:
        with pytest.raises(RequestRefused, match=said):
            engine.complete([request_])
        assert not server.attempts
        assert engine.complete([ask("q", temperature=1.0)])


def test_what_is_begun_needs_an_endpoint_that_takes_token_ids(model):
    with FaultyServer() as server, opened(server, model) as engine:
        said = (
            "^request 1: its response begins with 2 token ids, and the OpenAI API takes none; use an endpoint with `extensions: vllm` that"
        )
        with pytest.raises(RequestRefused, match=said) as refused:
            engine.complete([ask("q"), ask("r", begun=(4, 5))])
        assert refused.value.index == 1 and not server.attempts, "before anything is asked"


def _shows(probabilities: dict[str, float]):
    from math import log

    listed = [{"token": token, "logprob": log(p)} for token, p in probabilities.items()]
    logprobs = {"content": [{**listed[0], "top_logprobs": listed}]} if listed else None
    return lambda body: (200, {"choices": [{**says(body)[1]["choices"][0], "logprobs": logprobs}]})


def test_options_of_one_token_are_read_from_the_likeliest(model):
    answer = _shows({"A": 0.6, "B": 0.3, "C": 0.04, "A ": 0.0585})
    with FaultyServer(answer=answer) as server, opened(server, model) as engine:
        scored, plain = engine.complete([ask("pick", options=("B", "A", "D", "")), ask("q")])
        assert not scored.responses and plain.responses and not plain.option_logprobs
        assert [round(2.718281828459045**value, 6) for value in scored.option_logprobs] == [0.3, 0.6, 0.0015, 1.0]
        (asked,) = [body for body in server.bodies if body.get("top_logprobs")]
        assert (asked["top_logprobs"], asked["logprobs"], asked["max_tokens"]) == (20, True, 1)
        with pytest.raises(RequestRefused, match="option 'Ab' is not among the 4 likeliest .*'A' begins it, so it has several tokens"):
            engine.complete([ask("pick", options=("Ab",))])
    for shown, said in (
        ({"A": 0.6, "B": 0.3}, r"option 'D' .* \(0.1 of the probability is outside them\)"),
        ({}, "gives no log-probabilities, and those of 'A', 'D' are asked for"),
    ):
        with FaultyServer(answer=_shows(shown)) as server, opened(server, model) as engine, pytest.raises(RequestRefused, match=said):
            engine.complete([ask("pick", options=("A", "D"))])


def test_an_answer_that_is_none_is_refused(model):
    """A filter's word is handed on; a full context is not an empty answer; an unknown ending is asked again."""

    def ends(reason, tokens=3, content="a"):
        choice = {"index": 0, "message": {"content": content}, "finish_reason": reason}
        return lambda body: (200, {"choices": [choice], "usage": {"prompt_tokens": 64, "completion_tokens": tokens}})

    with FaultyServer(answer=ends("content_filter", content=None)) as server, opened(server, model) as engine:
        assert (engine.complete([ask("q")])[0].responses[0].text, server.attempts.total()) == ("", 1)
    for answer, said in (
        (ends("length", 0, ""), r"the prompt \(64 tokens\) fills the context"),
        (ends("abort"), r"malformed answer \(finish_reason 'abort'\)"),
    ):
        with FaultyServer(answer=answer) as server, opened(server, model, max_attempts=2) as engine:  # noqa: SIM117
            with pytest.raises(RequestRefused, match=said):
                engine.complete([ask("q")])


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"base_url": "ftp://host/v1"}, "pattern"),
        ({"base_url": "http:///v1"}, "names no host"),
        ({"base_url": "https://user:sk-1@host/v1"}, "holds a user, a password, a query or a fragment"),
        ({"base_url": "https://host/v1?key=sk-1"}, "put the key into an environment variable"),
        ({"base_url": "http://host/v1", "api_key_env": "K"}, r"would send the key in \$K unencrypted to host; use https, or say"),
        ({"base_url": "http://10.0.0.7/v1", "api_key_env": "K"}, "unencrypted"),
        ({"base_url": "https://host/v1", "api_key_env": "sk-abc"}, "pattern"),
    ],
)
def test_settings_that_would_tell_a_key_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        openai.Config.model_validate(settings)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8/v1", "http://localhost/v1", "http://[::1]:8/v1", "https://host/v1"])
def test_a_key_may_go_where_nobody_listens(url):
    assert openai.Config(base_url=url, api_key_env="K")
    assert openai.Config(base_url="http://host/v1", api_key_env="K", insecure=True) and openai.Config(base_url="http://host/v1")


def test_a_key_that_is_missing_or_broken_is_refused(model, monkeypatch):
    with FaultyServer() as server:
        monkeypatch.delenv("TEACHER_KEY", raising=False)
        with pytest.raises(Refusal, match=r"the environment has no \$TEACHER_KEY"), opened(server, model, api_key_env="TEACHER_KEY"):
            raise AssertionError("opened")
        monkeypatch.setenv("TEACHER_KEY", "sk\nx: y")
        with (
            pytest.raises(Refusal, match=r"\$TEACHER_KEY holds characters that no key has") as refused,
            opened(server, model, api_key_env="TEACHER_KEY"),
        ):
            raise AssertionError("opened")
        assert "sk" not in str(refused.value)


def test_the_key_is_on_the_wire_and_nowhere_else(tmp_path, monkeypatch, caplog, capfd):
    """Everything that a run leaves or says is searched for it: files, manifests, logs of all libraries at all levels, errors, repr."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    for name in (None, "httpx2", "httpcore2", "rematch", "asyncio"):
        caplog.set_level(logging.DEBUG, name)

    def echoes(body):
        return 401, {"error": {"message": f"Incorrect API key provided: {KEY}. You asked with Bearer {KEY}"}}

    said = []
    with FaultyServer(planned(2, kinds=("500", "reset", "429"))) as server:
        machine = _machine(tmp_path, server, api_key_env="TEACHER_KEY")
        run.run(_recipe(tmp_path), machine, tmp_path / "run")
        assert server.keys == {f"Bearer {KEY}"}
        with opened(server, Endpoint("teacher-9", None), api_key_env="TEACHER_KEY") as engine:
            said += [
                repr(engine),
                repr(vars(engine)),
                repr(vars(engine._client)),
                repr(vars(engine._client._http)),
                str(engine._client._http.headers),
            ]
    told = pytest.raises(Refusal, match=r"Incorrect API key provided: \[key\].*check the key in \$TEACHER_KEY")
    with FaultyServer(answer=echoes) as server, told as refused:
        run.run(_recipe(tmp_path, "another"), _machine(tmp_path, server, api_key_env="TEACHER_KEY"), tmp_path / "refused")
    cause: BaseException | None = refused.value
    while cause is not None:
        said += [str(cause), repr(cause)]
        cause = cause.__cause__ or cause.__context__
    said += [caplog.text, *capfd.readouterr()]
    assert "HTTP Request: POST" in caplog.text and "send_request_headers" in caplog.text, "the libraries do log"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in files) and any(path.suffix == ".jsonl" for path in files)
    for text in said:
        assert KEY not in text
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path


def _recipe(tmp_path: Path, name: str = "teacher-9", stage: str = "ask", **settings):
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(12)))
    body = {
        "name": "teacher",
        "rounds": 1,
        "start": {
            "teacher": {"stage": "adopt", "endpoint": name},
            "asked": {"stage": "prompts", "source": {"kind": "jsonl", "path": str(source)}},
            "answers": {"stage": stage, "model": "teacher", "prompts": "asked", **settings},
        },
        "round": {"some": {"stage": "slice", "rows": "asked", "parts": 1}},
    }
    return recipe.make(body, "test")


def _machine(tmp_path: Path, server: FaultyServer, **settings):
    engine = {"kind": "openai", "base_url": server.base_url, **QUICK, **settings}
    return profile(answers=str(tmp_path / "answers"), overrides={"answers": {"engine": engine}})


def test_generate_writes_no_token_ids_it_does_not_know(tmp_path):
    with FaultyServer() as server:
        run.run(_recipe(tmp_path, stage="generate", n=3), _machine(tmp_path, server), tmp_path / "run")
    made = artifact.read(tmp_path / "run/start/answers")
    assert made is not None
    for i, row in enumerate(rows.read(made.path).to_pylist()):
        assert row["tokenizer"] is None and row["prompt_token_ids"] is None
        assert [r["text"] for r in row["responses"]] == [f"answer {k} to question {i}" for k in range(3)]
        assert {(r["token_ids"], r["logprob"], r["source"]) for r in row["responses"]} == {(None, None, "start/answers")}
    facts = made.manifest.facts
    assert (facts["tokens"], facts["mean_length"], facts["tokenizer"]) == (12 * 9, 3.0, None)
    assert facts["prompt_tokens"] == sum(len(f"question {i}") for i in range(12))


def test_the_name_is_identity_and_the_address_is_not(tmp_path):
    with FaultyServer() as one, FaultyServer() as other:
        keys = [
            {step.address: step.key for step in plan(_recipe(tmp_path, name), _machine(tmp_path, server))}
            for name, server in (("teacher-9", one), ("teacher-9", other), ("teacher-10", one))
        ]
    assert keys[0] == keys[1]
    assert {address for address in keys[0] if keys[0][address] != keys[2][address]} == {"start/teacher", "start/answers"}


def test_a_model_behind_an_endpoint_has_no_weights(tmp_path):
    asked = _recipe(tmp_path, stage="generate")
    with pytest.raises(Refusal, match="is the model 'teacher-9' behind an endpoint, which has no weights here; .* profile's overrides"):
        run.run(asked, profile(engine={"kind": "transformers"}), tmp_path / "run")
    made = artifact.read(tmp_path / "run/start/teacher")
    assert made is not None
    with pytest.raises(Refusal, match="has no weights here"):
        steps.tools(tmp_path / "x", inputs={"model": (made,)}).model("model")


def test_weights_are_not_behind_an_endpoint(tmp_path):
    """An endpoint would serve the same model in every round, and nobody would see it."""
    folder = tiny_llama(tmp_path / "model")
    named = Endpoint("teacher-9", folder)
    for given, said in (
        (Model(folder), "is a folder of weights, and nothing shows that the endpoint"),
        (named, "token ids come only from endpoints with vLLM's extensions"),
    ):
        with FaultyServer() as server, pytest.raises(Refusal, match=said), opened(server, given):
            raise AssertionError("opened")


@pytest.mark.parametrize(
    "settings, said",
    [
        ({}, "model: is required; add it, or `endpoint`"),
        ({"model": "a/b", "endpoint": "c"}, "endpoint: is named beside a model"),
        ({"endpoint": "c", "revision": "main"}, "endpoint: is named beside a model or revision"),
        ({"model": "a/b", "tokenizer": "c"}, "tokenizer: a model with a folder brings its own"),
    ],
)
def test_what_is_adopted_has_one_place(settings, said):
    from stages import adopt

    with pytest.raises(ValueError, match=said):
        adopt.Config.model_validate(settings)


def test_an_adopted_tokenizer_is_recorded_with_its_digests(tmp_path):
    from pipeline.model import endpoint as served

    folder = tiny_llama(tmp_path / "model")
    made = steps.build(tmp_path / "teacher", "adopt", {"endpoint": "t", "tokenizer": str(folder)})
    found = served(made.path)
    assert found is not None and (found.name, found.tokenizer) == ("t", folder)
    assert "tokenizer.json" in json.loads((made.path / "adopted.json").read_text())["files"]
    with pytest.raises(Refusal, match="has no tokenizer.json; name the folder of a fast tokenizer"):
        steps.build(tmp_path / "other", "adopt", {"endpoint": "t", "tokenizer": str(tmp_path)})
    folder.rename(tmp_path / "moved")
    with pytest.raises(Refusal, match="the tokenizer folder .* is gone"):
        served(made.path)


def test_a_redirect_is_not_followed(model, monkeypatch):
    monkeypatch.setenv("K", KEY)
    with (
        FaultyServer() as thief,
        FaultyServer(
            answer=lambda body: (307, {"message": "over there"}), headers={"Location": f"{thief.base_url}/chat/completions"}
        ) as server,
        opened(server, model, api_key_env="K") as engine,
    ):
        with pytest.raises(RequestRefused, match="refused: 307, 'over there'; check the engine's base_url"):
            engine.complete([ask("q")])
        assert not thief.attempts


def test_equal_requests_are_two_and_a_repeated_one_is_the_same(model):
    """The idempotency key tells twins apart, and is the same in another process, so that an endpoint that knows it answers once."""
    with FaultyServer() as server:
        for times in (1, 2):
            with opened(server, model) as engine:
                engine.complete([ask("q", seed=1), ask("q", seed=1), ask("r")])
            assert sorted(server.prompts.values()) == ["q", "q", "r"] and set(server.attempts.values()) == {times}
