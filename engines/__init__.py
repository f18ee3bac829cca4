"""Engines turn text into text. This page is their whole contract; each file beside it is one engine.

An engine module has `VERSION`, `Config`, `SCRIPTED` (True only if its output is not a model's), and

    open(config, model: Path, *, seed: int) -> ContextManager[Engine]
    placement(config) -> pipeline.tools.Placement      # processes, and GPUs and CPU cores of each

`open` loads the Hugging Face folder `model`, checks the canary where the folder has one, and frees
everything when its block ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


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


@dataclass(frozen=True)
class Response:
    """One sampled continuation. `token_ids` are the sampled ones, the end-of-turn token included when it was sampled."""

    text: str
    """Without special tokens."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """log pi(token | before) of each sampled token under the untempered model, natural log; same length as token_ids."""
    finish_reason: str
    """"stop" or "length"."""


@dataclass(frozen=True)
class Completion:
    """The answer to one Request."""

    prompt_token_ids: tuple[int, ...]
    responses: tuple[Response, ...]
    option_logprobs: tuple[float, ...] = ()
    """Summed over the tokens of each option, in the order asked."""
    cached_tokens: int = 0
    """Prompt tokens that were served from a prefix cache."""


class Engine(Protocol):
    """An open engine."""

    tokenizer: str
    """Fingerprint of the tokenizer's behaviour (vocabulary, merges, template): same string, same token ids."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers in the order of the requests. A prompt that leaves no room in the context is a Refusal naming it."""
        ...
