"""The engines that run everywhere: the contract on transformers, the canary, the script, and the stage that uses them."""

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines import Request, canned, transformers
from engines.transformers.draws import mix, stream, uniforms
from models import Model, canary
from tests.support import engine_contract as contract
from tests.support.engine_contract import ask
from tests.support.models import tiny_llama, tiny_speaker

KINDS = {"plain": {}, "bos-tied": {"bos": True, "tied": True}, "bpe": {"bpe": True}}


@pytest.fixture(scope="module", params=KINDS)
def opened(request, tmp_path_factory):
    folder = tiny_llama(tmp_path_factory.mktemp("engine") / request.param, **KINDS[request.param])
    with transformers.open(transformers.Config(threads=1, tokens_per_batch=400), Model(folder), seed=0) as engine:
        yield request.param, folder, engine


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("engine") / "plain")


def test_what_is_sampled_comes_back(opened):
    kind, folder, engine = opened
    contract.what_is_sampled_comes_back(engine, folder, bos=kind == "bos-tied", tolerance=1e-4)


def test_greedy(opened):
    contract.greedy_is_the_most_likely_token(opened[2], opened[1])


def test_a_seed_is_a_sample(opened):
    contract.a_seed_is_a_sample(opened[2])


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6}, {"top_p": 0.7}, {"top_k": 9}, {"temperature": 1.4, "top_k": 40, "top_p": 0.8}, {"top_p": 1e-6}],
)
def test_sampling_follows_its_distribution(plain, settings):
    with transformers.open(transformers.Config(threads=1), Model(plain), seed=0) as engine:
        contract.sampling_follows_its_distribution(engine, plain, **settings)


def test_order_stop_options_and_context(opened):
    kind, folder, engine = opened
    contract.order_and_lengths_are_kept(engine)
    contract.options_are_scored(engine, folder, tolerance=1e-4)
    contract.a_unicode_prompt_is_fine(engine)
    if kind == "plain":
        contract.a_stop_text_ends_a_response(engine)
        contract.the_context_is_respected(engine, 512)


def test_what_is_begun_is_continued(opened):
    kind, folder, engine = opened
    contract.what_is_begun_is_continued(engine, folder, tolerance=1e-4)
    contract.what_is_begun_keeps_its_seed(engine, folder, tolerance=1e-4)
    contract.options_follow_what_is_begun(engine, folder, tolerance=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    contract.what_cannot_begin_a_response_is_refused(engine, tokenizer.eos_token_id, len(tokenizer), 512)
    if kind == "plain":
        contract.a_stop_text_may_begin_in_what_is_begun(engine, folder)


def test_a_character_may_be_split_where_what_is_begun_ends(tmp_path):
    folder = tiny_speaker(tmp_path / "model", "é東🦊!")
    with transformers.open(transformers.Config(threads=1), Model(folder), seed=0) as engine:
        assert engine.complete([ask("say", temperature=0.0)])[0].responses[0].text == "é東🦊!"
        contract.what_is_begun_is_continued(engine, folder, tolerance=1e-4)
        contract.what_is_begun_is_continued(engine, folder, tolerance=1e-4, stop=("🦊",))


def test_the_size_of_batches_changes_nothing(plain):
    requests = [ask("w" * (i % 9), n=2, max_new_tokens=10, top_p=0.9, seed=i) for i in range(30)]
    answers = []
    for tokens in (1, 100, 100_000):
        with transformers.open(transformers.Config(threads=1, tokens_per_batch=tokens), Model(plain), seed=tokens) as engine:
            answers.append([[r.token_ids for r in completion.responses] for completion in engine.complete(requests)])
    assert answers[0] == answers[1] == answers[2]


def test_one_batch_mixes_settings(plain):
    """Rows of one batch keep their own temperature, top_k and top_p."""
    requests = [
        ask("m", n=1, temperature=0.0, max_new_tokens=6),
        ask("m", n=3, top_k=1, max_new_tokens=6, seed=5),
        ask("m", n=2, max_new_tokens=6, seed=6),
    ]
    with transformers.open(transformers.Config(threads=1), Model(plain), seed=0) as engine:
        greedy, narrow, free = engine.complete(requests)
        alone = engine.complete(requests[2:])[0]
    assert {r.token_ids for r in narrow.responses} == {greedy.responses[0].token_ids}
    assert [r.token_ids for r in free.responses] == [r.token_ids for r in alone.responses]


def test_draws_are_uniform_and_by_address():
    import numpy as np

    streams = np.array([stream(seed, sample) for seed in range(500) for sample in range(4)], dtype=np.uint64)
    drawn = np.stack([uniforms(streams, np.full(len(streams), step, dtype=np.uint64)) for step in range(50)])
    assert drawn.min() > 0 and drawn.max() < 1
    counts = np.histogram(drawn, bins=50, range=(0, 1))[0]
    expected = drawn.size / 50
    assert ((counts - expected) ** 2 / expected).sum() < 49 + 4 * 98**0.5
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01, "steps are independent"
    assert abs(np.corrcoef(drawn[:, :-4].ravel(), drawn[:, 4:].ravel())[0, 1]) < 0.01, "neighbouring seeds are independent"
    assert uniforms(streams[7:9], np.array([3, 5], dtype=np.uint64)).tolist() == [drawn[3, 7], drawn[5, 8]]
    assert mix(0, 0) == 0xE220A8397B1DCDAF, "splitmix64's published first output for seed 0"


def _with_canary(folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sequences = canary.sequences(model.config.vocab_size)
    canary.write(folder, sequences, canary.measure(model, sequences))
    return folder


def test_the_canary_passes_on_the_weights_that_were_trained(tmp_path, caplog):
    folder = _with_canary(tiny_llama(tmp_path / "model"))
    caplog.set_level("INFO")
    for dtype in ("float32", "bfloat16"):
        with transformers.open(transformers.Config(dtype=dtype), Model(folder), seed=0) as engine:
            assert engine.complete([ask("a", max_new_tokens=1)])
    assert caplog.text.count("canary reproduced") == 2


@pytest.mark.parametrize("tensor", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_the_canary_catches_wrong_weights(tmp_path, caplog, tensor):
    """vLLM once served a round's body with the last round's output layer; the samples looked fine."""
    folder = _with_canary(tiny_llama(tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    other = load_file(tiny_llama(tmp_path / "other", seed=1) / "model.safetensors")
    save_file({**weights, tensor: other[tensor]}, folder / "model.safetensors", metadata={"format": "pt"})
    with (
        pytest.raises(canary.WrongWeights, match=rf"{folder}: .* differ by up to [\d.]+, tolerance 0.05; run `rematch verify`"),
        transformers.open(transformers.Config(), Model(folder), seed=0),
    ):
        raise AssertionError("opened")
    assert caplog.text.count("loading it again") == 1


def test_a_canary_of_nonsense_never_passes(tmp_path):
    folder = _with_canary(tiny_llama(tmp_path / "model"))
    _, logprobs = canary.read(folder)  # type: ignore[misc]
    assert canary.check(folder, logprobs, 0.05) == 0
    for wrong in ([*logprobs[:-1], [*logprobs[-1][:-1], float("nan")]], logprobs[:-1], [[*logprobs[0], 0.0], *logprobs[1:]]):
        with pytest.raises(canary.WrongWeights):
            canary.check(folder, wrong, 0.05)


def test_a_model_without_a_canary_is_loaded_and_says_so(plain, caplog):
    caplog.set_level("INFO")
    with transformers.open(transformers.Config(), Model(plain), seed=0):
        assert "has no canary" in caplog.text


def test_canned_keeps_the_contract():
    config = canned.Config(responses=("yes to {prompt}", "no {sample}", "東京 🦊"))
    with canned.open(config, Model(Path("no/such/folder")), seed=0) as engine:
        requests = [ask(f"q{i}", n=5, seed=i) for i in range(200)]
        first = engine.complete(requests)
        assert first == engine.complete(requests) == [engine.complete([request])[0] for request in requests]
        texts = Counter(r.text.split()[0] for c in first for r in c.responses)
        assert set(texts) == {"yes", "no", "東京"} and min(texts.values()) > 200
        for completion in first:
            for response in completion.responses:
                assert response.token_ids == (*response.text.encode(), canned.END) and len(response.logprobs) == len(response.token_ids)
        (cut,) = engine.complete([ask("q", n=8, max_new_tokens=4)])
        assert {(len(r.token_ids), r.finish_reason) for r in cut.responses} == {(4, "length")}
        (scored,) = engine.complete([ask("q", options=("a", "b", "c"))])
        assert sum(2.718281828459045**value for value in scored.option_logprobs) == pytest.approx(1)


def test_canned_goes_on_with_what_is_begun():
    """Every prefix of every sample, characters of several bytes split among them; stop strings as real engines have them."""
    config = canned.Config(responses=("yes to {prompt}", "no {sample}", "東京 🦊\n\nnaïve\n\nend"))
    with canned.open(config, Path("none"), seed=0) as engine:
        for request in (ask("q", n=4, seed=3), ask("q", n=4, seed=3, max_new_tokens=9), ask("q", n=4, seed=3, stop=("\n\n", "es"))):
            for number, whole in enumerate(engine.complete([request])[0].responses):
                last = len(whole.token_ids) - (whole.token_ids[-1] != canned.END)
                for k in range(last + 1):
                    begun = whole.token_ids[:k]
                    left = replace(request, begun=begun, max_new_tokens=request.max_new_tokens - k or 1)
                    made = engine.complete([left])[0].responses[number]
                    assert begun + made.token_ids == whole.token_ids and made.finish_reason == whole.finish_reason
                    head = bytes(id for id in begun if id != canned.END).decode(errors="ignore")
                    assert (head + made.text).startswith(whole.text)
                    assert head + made.text == whole.text or len(head) > len(whole.text), "but for what begun holds of a stop string"
        said = [engine.complete([ask("q", seed=seed, stop=("\n\n",))])[0].responses[0] for seed in range(20)]
        (first,) = {response for response in said if response.text == "東京 🦊"}
        (second,) = {
            each
            for seed in range(20)
            for each in engine.complete([ask("q", seed=seed, stop=("\n\n",), begun=first.token_ids)])[0].responses
            if each.text == "naïve"
        }
        assert first.token_ids[-2:] == second.token_ids[-2:] == (10, 10), "a search goes on from stop to stop"
        (beyond,) = engine.complete([ask("q", begun=(65,) * 500)])
        assert beyond.responses[0].token_ids == (canned.END,) and beyond.responses[0].text == ""
        contract.what_cannot_begin_a_response_is_refused(engine, canned.END, 257)


def test_canned_is_fast():
    requests = [Request(messages=({"role": "user", "content": f"question {i}"},), n=5, seed=i) for i in range(5000)]
    with canned.open(canned.Config(), Model(Path("none")), seed=0) as engine:
        began = time.process_time()
        completions = engine.complete(requests)
        seconds = time.process_time() - began
    assert 5000 / seconds > 5_000, f"{5000 / seconds:.0f} rows/s"
    lengths = {len(r.text) for c in completions for r in c.responses}
    assert len(lengths) > 30


def test_the_canary_file_is_what_the_trainer_promised(tmp_path):
    sequences = canary.sequences(107)
    assert sequences == canary.sequences(107) and len(sequences) == 8 and max(map(max, sequences)) < 107
    canary.write(tmp_path, sequences, [[0.0] * (len(ids) - 1) for ids in sequences])
    body = json.loads((tmp_path / "canary.json").read_text())
    assert set(body) == {"kind", "sequences", "logprobs"} and (body["kind"], body["sequences"]) == ("policy", sequences)
    with pytest.raises(ValueError, match="23 are due"):
        canary.write(tmp_path, sequences, [[0.0] * len(ids) for ids in sequences])
