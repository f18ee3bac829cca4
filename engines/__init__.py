"""Engines turn text into text. This page is their whole contract; each file beside it is one engine.

An engine module has `VERSION`, `Config`, `SCRIPTED` (True only if its output is not a model's), where it can work with
an adopted endpoint instead of a folder of weights `ENDPOINTS = True`, and

    open(config, model: models.Model, *, seed: int) -> ContextManager[Engine]
    placement(config) -> pipeline.placement.Placement      # processes, and GPUs and CPU cores of each

`open` loads the weights of `model`, checks the canary where its folder has one, and frees everything when its
block ends; with `ENDPOINTS` it is handed a `models.Endpoint` where one was adopted. An engine that can sample from
a geometric mixture of two models also has

    open_mixture(config, model: Model, other: Model, weight: float, *, seed: int) -> ContextManager[Engine]

whose log-probabilities are the mixture's.

A response may be begun (`Request.begun`, token ids of this engine's tokenizer). The law, for every engine and every
prefix `begun` of what it says greedily, as far as its arithmetic allows:

    greedy(prompt) == begun + greedy(prompt, begun=begun)        in token ids, log-probabilities and text

- What comes back is the continuation alone. `max_new_tokens` counts its tokens; the context has to hold `begun` too.
  Options are scored after `begun`.
- Texts join: `models.chat.begun_text(tokenizer, begun) + response.text` is the text of the whole. A character of which
  `begun` holds only some bytes belongs to the continuation.
- A stop string ends the response where it is completed by a new token, also if it began in `begun` (the text of the
  continuation is then empty). Those that lie wholly in `begun` are passed over, so that a search may go on after them.
- `begun` that ends with an end-of-turn token is a whole response: what comes back is empty, and "stop". An end of turn
  before its last token, or one followed by options, an id outside the vocabulary, and any `begun` where the engine's
  `tokenizer` is None raise RequestRefused.
- Where random numbers have an address (transformers, canned), the law holds for seeded sampling too, for the sample of
  the same number. vLLM's random stream starts anew with every request: there, a continuation is another draw.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from models.messages import Message
from pipeline.errors import Refusal
from pipeline.placement import Placement
from pipeline.plugin import Settings


@dataclass(frozen=True)
class Request:
    """One prompt to be completed `n` times."""

    messages: tuple[Message, ...]
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    max_new_tokens: int = 256
    seed: int = 0
    """Sampling depends on this and the prompt alone, as far as the engine's arithmetic allows."""
    stop: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """If given, nothing is sampled: the log-probability of each of these continuations is returned."""
    begun: tuple[int, ...] = ()
    """Token ids that the response begins with: the engine goes on after them in the assistant's turn, see below."""


@dataclass(frozen=True)
class Response:
    """One sampled continuation. `token_ids` are the sampled ones, the end-of-turn token included when it was sampled; not `begun`.

    An engine whose `tokenizer` is None knows no token ids: `token_ids` and `logprobs` are empty.
    """

    text: str
    """Without special tokens."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """log pi(token | before) of each sampled token under the untempered model, natural log; same length as token_ids."""
    finish_reason: str
    """"stop" or "length"; from an endpoint also "content_filter"."""


@dataclass(frozen=True)
class Completion:
    """The answer to one Request."""

    prompt_token_ids: tuple[int, ...]
    """Without `begun`."""
    responses: tuple[Response, ...]
    option_logprobs: tuple[float, ...] = ()
    """Summed over the tokens of each option, in the order asked."""
    cached_tokens: int = 0
    """Prompt tokens that were served from a prefix cache."""
    counted: tuple[int, int] | None = None
    """Tokens of the prompt and of all responses as an endpoint counts them; None: count the ids."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_token_ids) if self.counted is None else self.counted[0]

    @property
    def response_tokens(self) -> int:
        return sum(len(response.token_ids) for response in self.responses) if self.counted is None else self.counted[1]


class RequestRefused(Refusal):
    """An engine cannot, or an endpoint does not, answer one request; `index` is its place among those asked."""

    index: int = -1
    final: bool = False
    """Whether it is this prompt that the endpoint will not answer, by its content or length, however often it is asked."""


class Engine(Protocol):
    """An open engine."""

    tokenizer: str | None
    """Fingerprint of the tokenizer's behaviour (vocabulary, merges, template): same string, same token ids. None: no ids are known."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers in the order of the requests. A prompt that leaves no room in the context is a Refusal naming it."""
        ...

    # An engine whose answers cost money also has `complete_each(requests, answered)`, which calls `answered(index, completion)`
    # as soon as each answer is there, so that a crash loses none that was paid for.


class EngineModule(Protocol):
    """What an engine module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    SCRIPTED: bool

    def open(self, config: Any, model: Any, *, seed: int) -> AbstractContextManager[Engine]:
        """`model` is a `models.Model`, or a `models.Endpoint` where the module has `ENDPOINTS` and one was adopted."""
        ...

    def placement(self, config: Any) -> Placement: ...
