"""What every engine over a real model must do, as functions of an open engine: run on transformers and on vLLM alike."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines import Completion, Request, RequestRefused, Response
from models.chat import PromptTooLong, begun_text, render, text_ids


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


def what_is_begun_is_continued(engine: Any, folder: Path, *, tolerance: float, **settings: Any) -> None:
    """greedy(prompt) == begun + greedy(prompt, begun) for every prefix: ids, log-probabilities, text and ending, all in one call."""
    tokenizer, most = AutoTokenizer.from_pretrained(folder), 12
    asked = [ask("sort: " + "hgfa" * i, temperature=0.0, max_new_tokens=most, seed=i, **settings) for i in range(3)]
    for request, whole in zip(asked, engine.complete(asked), strict=True):
        (wanted,) = whole.responses
        last = len(wanted.token_ids) - (wanted.token_ids[-1] != tokenizer.eos_token_id)  # cut off, it could go on
        cuts = [wanted.token_ids[:k] for k in range(last + 1)]
        parts = engine.complete([replace(request, begun=begun, max_new_tokens=most - len(begun) or 1) for begun in cuts])
        for begun, part in zip(cuts, parts, strict=True):
            _continues(tokenizer, begun, part.responses[0], wanted, tolerance)
            assert part.prompt_token_ids == whole.prompt_token_ids


def _continues(tokenizer: Any, begun: tuple[int, ...], made: Response, wanted: Response, tolerance: float) -> None:
    assert begun + made.token_ids == wanted.token_ids and made.finish_reason == wanted.finish_reason
    assert len(made.logprobs) == len(made.token_ids)
    assert made.logprobs == pytest.approx(wanted.logprobs[len(begun) :], abs=tolerance)
    assert begun_text(tokenizer, begun) + made.text == wanted.text


def what_is_begun_keeps_its_seed(engine: Any, folder: Path, *, tolerance: float) -> None:
    """sample(prompt)[k:] == sample(prompt, begun=sample(prompt)[:k]), for the sample of the same number."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    request = ask("sort: dcba", n=3, temperature=0.9, top_p=0.95, max_new_tokens=12, seed=5)
    (whole,) = engine.complete([request])
    asked = [(number, k) for number in range(3) for k in range(0, 12, 3) if k < len(whole.responses[number].token_ids)]
    parts = engine.complete([replace(request, begun=whole.responses[number].token_ids[:k], max_new_tokens=12 - k) for number, k in asked])
    assert len({response.token_ids for response in whole.responses}) == 3
    for (number, k), part in zip(asked, parts, strict=True):
        wanted = whole.responses[number]
        _continues(tokenizer, wanted.token_ids[:k], part.responses[number], wanted, tolerance)


def a_stop_text_may_begin_in_what_is_begun(engine: Any, folder: Path) -> None:
    """Of one token a character: a stop string ends a response wherever the border lies, and is passed over where it lies before it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for letters in ("dcba", "zyx", "hello", "qwerty", "a b c", "mnop"):
        request = ask(letters, temperature=0.0, max_new_tokens=16)
        (free,) = engine.complete([request])
        text, ids = free.responses[0].text, free.responses[0].token_ids
        places = [at for at in range(3, len(text) - 5) if text.count(text[at : at + 3]) == 1]
        if len(text) == len(ids) and places:
            break
    else:
        raise AssertionError("the test wants a text with a part that is not repeated")
    at, end = places[0], text[places[0] : places[0] + 3]
    stopping = replace(request, stop=("no such text", end))
    (wanted,) = engine.complete([stopping])[0].responses
    assert (wanted.text, wanted.token_ids, wanted.finish_reason) == (text[:at], ids[: at + 3], "stop")
    made = engine.complete([replace(stopping, begun=ids[:k], max_new_tokens=16 - k) for k in range(at + 5)])
    for k, part in enumerate(made):
        (response,) = part.responses
        if k < at + 3:
            assert ids[:k] + response.token_ids == wanted.token_ids and response.finish_reason == "stop"
            assert response.text == text[k:at] and len(response.logprobs) == len(response.token_ids)
        else:
            assert ids[:k] + response.token_ids == ids and response.text == text[k:], "a stop string that is over and done with"
            assert begun_text(tokenizer, ids[:k]) == text[:k]


def options_follow_what_is_begun(engine: Any, folder: Path, *, tolerance: float) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    begun, options = tuple(text_ids(tokenizer, "so ")), ("yes", "", "no way")
    plain, scored = engine.complete([ask("pick", options=options), ask("pick", options=options, begun=begun)])
    assert scored.prompt_token_ids == plain.prompt_token_ids and scored.option_logprobs != plain.option_logprobs
    head = (*scored.prompt_token_ids, *begun)
    for option, got in zip(options, scored.option_logprobs, strict=True):
        ids = text_ids(tokenizer, option)
        logps_TV = forward(folder, (*head, *ids))
        assert got == pytest.approx(sum(float(logps_TV[len(head) - 1 + i, id]) for i, id in enumerate(ids)), abs=tolerance)


def what_cannot_begin_a_response_is_refused(engine: Any, end: int, vocabulary: int, context: int | None = None) -> None:
    """By its place, and the engine goes on; a response that is whole is continued by nothing."""
    refusals = {
        (vocabulary,): f"begins with the token id {vocabulary}, and the vocabulary has the ids 0 to {vocabulary - 1}; begin with ids of",
        (9, -1): "begins with the token id -1, and the vocabulary has",
        (9, end, 9): rf"begins with 3 tokens, and token 1 of them \(id {end}\) ends the turn; begin with ids of one turn",
    }
    for begun, said in refusals.items():
        with pytest.raises(RequestRefused, match=f"^request 1: its response {said}") as refused:
            engine.complete([ask("fine", max_new_tokens=1), ask("q", begun=begun)])
        assert refused.value.index == 1
    with pytest.raises(RequestRefused, match=f"^request 0: its options would come after token id {end}, which ends the turn"):
        engine.complete([ask("q", options=("a",), begun=(9, end))])
    if context is not None:
        with pytest.raises(PromptTooLong, match=r"^request 1: its prompt and the \d+ tokens that its response begins with have") as full:
            engine.complete([ask("fine", max_new_tokens=1), ask("q", begun=(9,) * context)])
        assert full.value.index == 1 and full.value.limit == context < full.value.tokens
    whole, open_ = engine.complete([ask("q", n=2, begun=(9, end)), ask("q", begun=(9,), max_new_tokens=2)])
    assert whole.responses == (Response("", (), (), "stop"),) * 2 and open_.responses[0].token_ids
