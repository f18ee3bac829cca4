"""Log-probabilities of given continuations from an endpoint: exact by vLLM's extensions, of single tokens by any that shows them."""

import math
from typing import Any

from engines import Completion, Request, RequestRefused
from engines.openai.http import Client
from engines.openai.shapes import Chat, Scores, Tokenized
from engines.openai.spelling import Spelling
from models.messages import called

TOP = 20
"""Most alternatives of a token that the API gives."""
UNLISTED = 0.01
"""Most probability outside those that an option which is not among them can have without being refused."""


async def of_any_length(spelling: Spelling, client: Client, request: Request, prompt: tuple[int, ...] | None) -> Completion:
    """By vLLM: the log-probabilities of prompt and option together, read at the option's tokens."""
    if prompt is None:
        chat = {"messages": [called(message) for message in request.messages], "add_generation_prompt": True}
        prompt = await _ids(spelling, client, chat)
    options = [await _option_ids(spelling, client, option) if option else () for option in request.options]
    asked = [ids for ids in options if ids]
    head = (*prompt, *request.begun)
    longest = len(head) + max(map(len, asked), default=0)
    if spelling.context is not None and longest >= spelling.context:  # vLLM samples one token more
        raise RequestRefused(
            f"{spelling.base}: prompt and option have {longest} tokens, and the context holds {spelling.context} and one must be free; "
            "shorten the prompt, or use a model with a longer context"
        )
    sums: list[float] = []
    if asked:
        sequences, start = [[*head, *ids] for ids in asked], len(head)
        body = {"model": spelling.name, "prompt": sequences, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        sums = await client.ask("POST", f"{spelling.base}/completions", body, lambda content: _sums(content, sequences, start))
    left = iter(sums)
    scores = tuple(next(left) if ids else 0.0 for ids in options)
    return Completion(prompt if spelling.tokenizer is not None else (), (), scores, counted=(len(head), 0))


def _sums(content: bytes, sequences: list[list[int]], start: int) -> list[float]:
    """Summed log-probability of what follows the first `start` tokens of each sequence."""
    choices = sorted(Scores.model_validate_json(content).choices, key=lambda choice: choice.index)
    if [len(choice.prompt_logprobs) for choice in choices] != [len(ids) for ids in sequences]:
        raise ValueError("not a log-probability for each token")
    sums: list[float] = []
    for choice, ids in zip(choices, sequences, strict=True):
        found: list[Any] = [(choice.prompt_logprobs[at] or {}).get(ids[at], {}).get("logprob") for at in range(start, len(ids))]
        if not all(isinstance(value, float | int) for value in found):
            raise ValueError("a token without its log-probability")
        sums.append(math.fsum(found))
    return sums


async def _option_ids(spelling: Spelling, client: Client, option: str) -> tuple[int, ...]:
    if spelling.tokenizer is not None:
        from models import chat as chats

        return tuple(chats.text_ids(spelling.tokenizer, option))
    return await _ids(spelling, client, {"prompt": option, "add_special_tokens": False})


async def _ids(spelling: Spelling, client: Client, body: dict[str, Any]) -> tuple[int, ...]:
    url = f"{spelling.base.removesuffix('/v1')}/tokenize"
    return (await client.ask("POST", url, {"model": spelling.name, **body}, Tokenized.model_validate_json)).tokens


async def of_one_token(spelling: Spelling, client: Client, request: Request, prompt: tuple[int, ...] | None) -> Completion:
    """By the log-probabilities of the likeliest first tokens, which is all that the OpenAI API gives."""
    body = spelling.body(Request(request.messages, seed=request.seed, max_new_tokens=1), 0, 1, None)
    body |= {"logprobs": True, "top_logprobs": TOP}
    answer = await client.ask("POST", f"{spelling.base}/chat/completions", body, Chat.model_validate_json)
    tokens = answer.choices[0].logprobs and answer.choices[0].logprobs.content
    if not tokens or not tokens[0].top_logprobs:
        raise RequestRefused(
            f"{spelling.base}: gives no log-probabilities, and those of {', '.join(map(repr, request.options))} are asked for; "
            "let the judge sample its verdicts, or use an endpoint that gives them"
        )
    listed = [(token.token, token.logprob) for token in tokens[0].top_logprobs]
    scores = tuple(0.0 if option == "" else _listed(spelling.base, option, listed) for option in request.options)
    counted = (answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else None
    return Completion((), (), scores, counted=counted)


def _listed(base: str, option: str, listed: list[tuple[str, float]]) -> float:
    """log P(option); the most that it can be, where it is not listed and next to nothing is left for it."""
    same = [logprob for token, logprob in listed if token == option]
    if same:
        return math.log(math.fsum(math.exp(logprob) for logprob in same))
    left = 1 - math.fsum(math.exp(logprob) for _, logprob in listed)
    begun = [token for token, _ in listed if token and option.startswith(token)]
    if begun or left > UNLISTED:
        why = f"{begun[0]!r} begins it, so it has several tokens" if begun else f"{left:.2g} of the probability is outside them"
        raise RequestRefused(
            f"{base}: option {option!r} is not among the {len(listed)} likeliest tokens that it shows ({why}); "
            "use options of one token, let the judge sample its verdicts, or use an endpoint with `extensions: vllm`"
        )
    return math.log(max(left, 1e-12))
