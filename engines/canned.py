"""A scripted engine: answers come from a list, or are made up from the seed; no model is loaded.

For trying out recipes and for tests of everything around generation. Token ids are the UTF-8 bytes of the text, and
256 ends a turn; `begun` skips as much of the script, whatever it says. A run made with it can never pass as real: SCRIPTED marks its keys.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from math import exp, log

from pydantic import Field

from engines import Completion, Request, Response, _begun
from engines.transformers.draws import mix
from models import Endpoint, Model
from models.chat import first_stop
from pipeline.placement import Placement
from pipeline.plugin import Settings

VERSION = 2
SCRIPTED = True
ENDPOINTS = True
END = 256
"""Token id of the end of a turn."""
WORDS = ("the", "old", "fox", "a", "quiet", "river", "answers", "many", "open", "questions", "before", "noon", "with", "patience")


class Config(Settings):
    responses: tuple[str, ...] = ()
    """Answers to pick from by seed; `{prompt}` and `{sample}` stand for the last message and the sample's number. Empty: made-up words."""
    max_words: int = Field(12, ge=1)
    """Most words of a made-up answer; lengths are spread evenly from 1."""
    replicas: int = Field(1, ge=1)
    """Worker processes."""


class Canned:
    """An open engine that reads answers from a script."""

    tokenizer = "canned-bytes-v1"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._made_up = tuple(_sentence(mix(i, 1), config.max_words) for i in range(4096))

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        over = _begun.over(requests, (END,), END + 1)
        return [self._one(request, done) for request, done in zip(requests, over, strict=True)]

    def _one(self, request: Request, over: bool) -> Completion:
        prompt_ids = tuple("\n".join(f"{m['role']}: {m['content']}" for m in request.messages).encode())
        if request.options:
            return Completion(prompt_ids, (), option_logprobs=_preferences(request))
        return Completion(prompt_ids, tuple(_begun.ENDED if over else self._response(request, sample) for sample in range(request.n)))

    def _response(self, request: Request, sample: int) -> Response:
        ids = (*self._script(request, sample).encode(), END)[len(request.begun) :] or (END,)
        reason = "stop" if len(ids) <= request.max_new_tokens else "length"
        ids = ids[: request.max_new_tokens]
        head = bytes(request.begun)
        said = head + bytes(id for id in ids if id != END)
        stops, cut = [end.encode() for end in request.stop], None
        for end in range(len(head) + 1, len(said) + 1) if stops else ():
            cut = first_stop(said[:end], stops, head)
            if cut is not None:  # a real engine stops with the token that completes it
                ids, reason = ids[: end - len(head)], "stop"
                break
        text = said[:cut].decode(errors="ignore")[len(head.decode(errors="ignore")) :]
        return Response(text, ids, (-1.0,) * len(ids), reason)

    def _script(self, request: Request, sample: int) -> str:
        pick = mix(request.seed, 0 if request.temperature == 0 else sample)
        script = self._config.responses
        if not script:
            return self._made_up[pick % 4096]
        return script[pick % len(script)].replace("{sample}", str(sample)).replace("{prompt}", request.messages[-1]["content"])


def _sentence(state: int, max_words: int) -> str:
    return " ".join(WORDS[mix(state, i) % len(WORDS)] for i in range(1 + state % max_words))


def _preferences(request: Request) -> tuple[float, ...]:
    """A distribution over the options that depends on the seed alone."""
    weights = [exp(mix(request.seed, i) % 1000 / 250) for i in range(len(request.options))]
    return tuple(log(weight / sum(weights)) for weight in weights)


@contextmanager
def open(config: Config, model: Model | Endpoint, *, seed: int) -> Generator[Canned, None, None]:
    """The engine. `model` is not read, and may hold no weights."""
    yield Canned(config)


def placement(config: Config) -> Placement:
    """Workers without GPUs."""
    return Placement(workers=config.replicas)
