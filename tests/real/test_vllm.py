"""vLLM itself, on whatever device its build is for: the engine contract, the numbers against a plain forward, and its known traps."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines import vllm
from engines.vllm import process
from models import Model, canary
from pipeline import processes
from pipeline.errors import Refusal
from tests.support import engine_contract as contract
from tests.support.engine_contract import ask
from tests.support.models import tiny_llama, tiny_speaker

pytestmark = pytest.mark.real
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = vllm.Config(
    device=DEVICE, dtype="float32", kv_cache_gib=0.25, threads=1 if DEVICE == "cpu" else None, max_num_seqs=64, own_process=False
)


def _with_canary(folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sequences = canary.sequences(model.config.vocab_size)
    canary.write(folder, sequences, canary.measure(model, sequences))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The template writes the BOS, and the tokenizer would write a second one."""
    return _with_canary(tiny_llama(tmp_path_factory.mktemp("vllm") / "bos", bos=True))


@pytest.fixture(scope="module")
def engine(folder):
    before = dict(os.environ)
    began = time.perf_counter()
    with vllm.open(CONFIG, Model(folder), seed=0) as opened:
        print(f"\nfirst engine ready after {time.perf_counter() - began:.1f} s")
        yield opened
    assert dict(os.environ) == before, "the environment is given back as it was"
    assert torch.set_num_threads.__name__ == "set_num_threads" and "vllm" not in str(torch.set_num_threads.__module__)
    assert not torch.distributed.is_initialized()


def test_what_is_sampled_comes_back(engine, folder):
    contract.what_is_sampled_comes_back(engine, folder, bos=True, tolerance=1e-3)


def test_greedy(engine, folder):
    contract.greedy_is_the_most_likely_token(engine, folder)


def test_a_seed_is_a_sample(engine):
    contract.a_seed_is_a_sample(engine)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"top_p": 0.7}, {"top_k": 9}])
def test_sampling_follows_its_distribution(engine, folder, settings):
    contract.sampling_follows_its_distribution(engine, folder, **settings)


def test_order_stop_options_and_context(engine, folder):
    contract.order_and_lengths_are_kept(engine)
    contract.a_stop_text_ends_a_response(engine)
    contract.options_are_scored(engine, folder, tolerance=1e-3)
    contract.a_unicode_prompt_is_fine(engine)


def test_what_is_begun_is_continued(engine, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    contract.what_is_begun_is_continued(engine, folder, tolerance=1e-3)
    contract.a_stop_text_may_begin_in_what_is_begun(engine, folder)
    contract.options_follow_what_is_begun(engine, folder, tolerance=1e-3)
    contract.what_cannot_begin_a_response_is_refused(engine, tokenizer.eos_token_id, len(tokenizer), 512)


def test_common_beginnings_are_cached(engine):
    """Blocks are 128 tokens on a CPU: a shared system prompt longer than that is computed once."""
    head = "be brief. " * 30
    engine.complete([ask(head + f"question {i}", max_new_tokens=1) for i in range(4)])
    (again,) = engine.complete([ask(head + "question 9", max_new_tokens=1)])
    assert again.cached_tokens >= 128 and len(again.prompt_token_ids) > 300


def test_seeded_prompts_beyond_one_steps_budget(engine):
    """A seeded request whose prompt was split into chunks killed the CPU engine: 64 prompts of 400 tokens exceed any step."""
    requests = [ask(chr(97 + i % 26) * 400, n=2, max_new_tokens=3, seed=i) for i in range(64)]
    assert all(len(completion.responses) == 2 for completion in engine.complete(requests))


def test_an_engine_that_failed_is_started_anew(engine):
    """One bad request can leave vLLM's core dead or its scheduler torn: nothing of an engine that raised is used again."""
    from vllm.exceptions import VLLMValidationError

    (before,) = engine.complete([ask("a", max_new_tokens=5, seed=4)])
    failed = engine._held[0]
    with pytest.raises(VLLMValidationError, match="top_p"):
        engine.complete([ask("a", max_new_tokens=1), ask("b", top_p=3.0)])
    (after,) = engine.complete([ask("a", max_new_tokens=5, seed=4)])
    assert engine._held[0] is not failed
    assert after.responses[0].token_ids == before.responses[0].token_ids


@pytest.mark.skipif(DEVICE != "cpu", reason="wants the build for CPUs")
def test_the_wrong_build_is_refused(folder):
    with pytest.raises(Refusal, match="`device: cuda`, but the installed vLLM .* runs on 'cpu'; set the profile's engine.device"):
        process.start(vllm.Config(), folder, 0)


def test_reload_weights_of_tied_embeddings_is_what_the_canary_is_for(tmp_path):
    """`reload_weights` keeps the old output layer when it is tied to the embeddings. If this fails, vLLM has mended it."""
    folder = _with_canary(tiny_llama(tmp_path / "tied", tied=True, seed=1))
    other = _with_canary(tiny_llama(tmp_path / "next", tied=True, seed=2))
    with vllm.open(CONFIG, Model(folder), seed=0) as opened:
        llm = opened._held[0]
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(other)})
        sequences, stored = canary.read(other)  # type: ignore[misc]
        gap = canary.difference(stored, vllm.prompt_logprobs(llm, sequences))
        print(f"\ntied embeddings after reload_weights: log-probabilities differ by up to {gap:.3g}")
        with pytest.raises(canary.WrongWeights, match="tolerance 0.05"):
            canary.check(other, vllm.prompt_logprobs(llm, sequences), canary.TOLERANCE["float32"])


def test_memory_comes_back(tmp_path):
    """A gibibyte of keys and values is taken and given back, twice, in one process, and no process is left."""
    folder = _with_canary(tiny_llama(tmp_path / "model"))
    code = (
        "import sys, pathlib\n"
        "from engines import vllm\nfrom pipeline import processes\n"
        "from models import Model\n"
        "from tests.support.engine_contract import ask\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1]) // 256\n"
        "if __name__ == '__main__':\n"
        f"    config = vllm.Config(device='{DEVICE}', dtype='float32', kv_cache_gib=1, own_process=False)\n"
        "    for _ in range(2):\n"
        "        with vllm.open(config, Model(pathlib.Path(sys.argv[1])), seed=0) as engine:\n"
        "            engine.complete([ask('a', max_new_tokens=1)])\n"
        "            opened = rss()\n"
        "        print(opened, rss())\n"
        "    import os\n"
        "    print(len(processes.descendants(os.getpid())))\n"
    )
    root = Path(vllm.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=root, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.split("\n")
    (opened_1, closed_1), (opened_2, closed_2) = ([int(v) for v in line.split()] for line in lines[-4:-2])
    if DEVICE == "cpu":
        assert opened_1 - closed_1 > 900 and opened_2 - closed_2 > 900
        assert closed_2 - closed_1 < 200, f"MiB kept: {closed_2 - closed_1}"
    assert lines[-2] == "0"


def test_a_killed_owner_leaves_no_engine_behind(tmp_path):
    """`kill -9` of a parent left vLLM's core and its workers alive, holding the GPU's memory."""
    folder = tiny_llama(tmp_path / "model")
    script = tmp_path / "owner.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "from engines import vllm\n"
        "from models import Model\n"
        "from tests.support.engine_contract import ask\n"
        "if __name__ == '__main__':\n"
        f"    config = vllm.Config(device='{DEVICE}', dtype='float32', kv_cache_gib=0.25, own_process=True, threads=1)\n"
        "    with vllm.open(config, Model(pathlib.Path(sys.argv[1])), seed=0) as engine:\n"
        "        engine.complete([ask('a', max_new_tokens=1)])\n"
        "        print('open', flush=True)\n"
        "        time.sleep(600)\n"
    )
    root = str(Path(vllm.__file__).parents[2])
    with (tmp_path / "log").open("w") as log:
        owner = subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
    assert owner.stdout is not None
    try:
        while (line := owner.stdout.readline()) and line != "open\n":
            pass
        assert line == "open\n", (tmp_path / "log").read_text()[-3000:]
        started = processes.descendants(owner.pid)
        assert len(started) >= 2, "a core, at least, and the guard"
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    until = time.monotonic() + 20
    while left := {each.pid for each in started if each.alive()}:
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.2)


def test_a_character_may_be_split_where_what_is_begun_ends(tmp_path):
    # The last of this file: vLLM's groups are the process's, and closing this engine ends those of the fixture's.
    folder = tiny_speaker(tmp_path / "model", "é東🦊!")
    with vllm.open(CONFIG, Model(folder), seed=0) as opened:
        assert opened.complete([ask("say", temperature=0.0)])[0].responses[0].text == "é東🦊!"
        contract.what_is_begun_is_continued(opened, folder, tolerance=1e-3)
        contract.what_is_begun_is_continued(opened, folder, tolerance=1e-3, stop=("🦊",))
