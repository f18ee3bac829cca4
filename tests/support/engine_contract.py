"""What every engine over a real model must do, as functions of an open engine: run on transformers and on vLLM alike."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines import Completion, Request
from models.chat import PromptTooLong, render


def ask(text: str, **settings: Any) -> Request:
    return Request(messages=({"role": "user", "content": text},), **settings)


def forward(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """log pi of every next token (T, V), by one plain forward."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)


def what_is_sampled_comes_back(engine: Any, folder: Path, *, bos: bool, tolerance: float) -> None:
    """Ids decode to the text, the end of turn is kept, exactly one BOS at most, and log-probabilities are the model's own."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    requests = [ask("sort: " + "hgfa" * i, n=4, temperature=0.7, top_p=0.9, top_k=50, max_new_tokens=40, seed=i) for i in range(8)]
    completions: list[Completion] = engine.complete(requests)
    reasons = set()
    for request, completion in zip(requests, completions, strict=True):
        prompt = completion.prompt_token_ids
        assert list(prompt) == render(tokenizer, request.messages)
        assert prompt.count(tokenizer.bos_token_id) == (1 if bos else 0)
        assert len(completion.responses) == 4
        for response in completion.responses:
            assert response.text == tokenizer.decode(response.token_ids, skip_special_tokens=True)
            assert (response.token_ids[-1] == tokenizer.eos_token_id) == (response.finish_reason == "stop")
            assert tokenizer.eos_token_id not in response.token_ids[:-1]
            assert response.finish_reason == "stop" or len(response.token_ids) == 40
            reasons.add(response.finish_reason)
            logps_TV = forward(folder, (*prompt, *response.token_ids))
            wanted = logps_TV[torch.arange(len(prompt) - 1, len(logps_TV) - 1), torch.tensor(response.token_ids)]
            assert len(response.logprobs) == len(response.token_ids)
            torch.testing.assert_close(torch.tensor(response.logprobs).double(), wanted, atol=tolerance, rtol=0)
    assert reasons == {"stop", "length"}, "the test wants both kinds of ending"


def greedy_is_the_most_likely_token(engine: Any, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for text in ("a", "sort these letters: dcba"):
        (completion,) = engine.complete([ask(text, temperature=0.0, max_new_tokens=24)])
        prompt = torch.tensor([completion.prompt_token_ids])
        wanted = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24)
        assert list(completion.responses[0].token_ids) == wanted[0, prompt.shape[1] :].tolist()


def a_seed_is_a_sample(engine: Any) -> None:
    """The same request gives the same tokens alone, among others, in another order and at another time; other seeds give others."""
    requests = [ask("letters " + "x" * (7 * i % 23), n=3, max_new_tokens=12, seed=i // 2) for i in range(16)]
    together = engine.complete(requests)
    alone = [engine.complete([request])[0] for request in requests]
    backwards = engine.complete(requests[::-1])[::-1]
    for one, two, three in zip(together, alone, backwards, strict=True):
        assert [r.token_ids for r in one.responses] == [r.token_ids for r in two.responses] == [r.token_ids for r in three.responses]
        assert len({r.token_ids for r in one.responses}) == 3, "samples of one prompt differ"
    seeds = engine.complete([ask("same", max_new_tokens=12, seed=seed) for seed in range(8)])
    assert len({completion.responses[0].token_ids for completion in seeds}) == 8


def sampling_follows_its_distribution(engine: Any, folder: Path, **settings: Any) -> None:
    """First tokens of many samples against the model's own softmax, restricted as asked: a chi-square with fixed seeds."""
    samples = 4000
    (completion,) = engine.complete([ask("q", n=samples, max_new_tokens=1, seed=11, **settings)])
    logps_V = forward(folder, completion.prompt_token_ids)[-1]
    probs_V = torch.softmax(logps_V / settings.get("temperature", 1.0), dim=-1)
    ranked = probs_V.argsort(descending=True).tolist()[: settings.get("top_k") or None]
    total, mass, kept = sum(float(probs_V[token]) for token in ranked), 0.0, []
    for token in ranked:
        if mass / total < settings.get("top_p", 1.0):
            kept.append(token)
            mass += float(probs_V[token])
    counts = dict.fromkeys(kept, 0)
    for response in completion.responses:
        assert response.token_ids[0] in counts, "a token outside the nucleus"
        counts[response.token_ids[0]] += 1
    expected = {token: samples * float(probs_V[token]) / mass for token in kept}
    likely = [token for token in kept if expected[token] >= 5]
    chi2 = sum((counts[token] - expected[token]) ** 2 / expected[token] for token in likely)
    degrees = max(len(likely) - 1, 1)
    assert chi2 < degrees + 4 * math.sqrt(2 * degrees), f"chi-square {chi2:.1f} with {degrees} degrees of freedom"


def order_and_lengths_are_kept(engine: Any) -> None:
    requests = [ask("y" * (31 * i % 50), n=1 + i % 3, max_new_tokens=1 + i % 7, seed=i) for i in range(20)]
    for request, completion in zip(requests, engine.complete(requests), strict=True):
        assert len(completion.prompt_token_ids) > len(request.messages[0]["content"])
        assert len(completion.responses) == request.n
        assert all(1 <= len(response.token_ids) <= request.max_new_tokens for response in completion.responses)
    assert engine.complete([]) == []


def a_stop_text_ends_a_response(engine: Any) -> None:
    (free,) = engine.complete([ask("stop", max_new_tokens=30, seed=3, temperature=0.8)])
    text = free.responses[0].text
    end = text[5:7]
    (cut,) = engine.complete([ask("stop", max_new_tokens=30, seed=3, temperature=0.8, stop=("no such text", end))])
    response = cut.responses[0]
    assert response.text == text[: text.find(end)]
    assert response.finish_reason == "stop"
    assert response.token_ids == free.responses[0].token_ids[: len(response.token_ids)]
    assert len(response.token_ids) == len(response.logprobs) < len(free.responses[0].token_ids)


def options_are_scored(engine: Any, folder: Path, *, tolerance: float) -> None:
    """Log-probabilities of options are sums over their tokens, in order, beside ordinary requests."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = ("yes", "no", "", "a much longer one")
    plain, scored = engine.complete([ask("pick", max_new_tokens=3), ask("pick", options=options)])
    assert plain.responses and not plain.option_logprobs
    assert not scored.responses and len(scored.option_logprobs) == 4
    for option, got in zip(options, scored.option_logprobs, strict=True):
        ids = tokenizer(option, add_special_tokens=False)["input_ids"]
        logps_TV = forward(folder, (*scored.prompt_token_ids, *ids))
        at = len(scored.prompt_token_ids) - 1
        assert got == pytest.approx(sum(float(logps_TV[at + i, id]) for i, id in enumerate(ids)), abs=tolerance)


def the_context_is_respected(engine: Any, context: int) -> None:
    """A response ends where the context does; a prompt without room is refused by its index and leaves the engine usable."""
    (whole,) = engine.complete([ask("z" * (context - 8), max_new_tokens=50, seed=1)])
    assert len(whole.prompt_token_ids) + len(whole.responses[0].token_ids) <= context
    with pytest.raises(PromptTooLong) as refused:
        engine.complete([ask("fine"), ask("z" * context)])
    assert refused.value.index == 1 and refused.value.limit == context and refused.value.tokens == context + 3
    assert "request 1" in str(refused.value) and str(context) in str(refused.value)
    assert engine.complete([ask("fine", max_new_tokens=2)])[0].responses


def a_unicode_prompt_is_fine(engine: Any) -> None:
    """What the vocabulary cannot spell becomes <unk> and breaks nothing; so do an empty and a blank prompt."""
    assert len(engine.complete([ask(text, max_new_tokens=2) for text in ("naïve 東京 🦊", "", "\n\n")])) == 3
