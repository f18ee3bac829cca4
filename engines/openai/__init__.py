"""Text generation by any endpoint that speaks the OpenAI chat API (platform.openai.com/docs/api-reference/chat), over HTTP.

The recipe says what answers (`adopt` with `endpoint: <model name>`), the profile where it is. Keys come from the
environment alone. Token ids, options of several tokens and responses that are begun (`Request.begun`) need vLLM's
extensions (tested with `vllm serve` 0.32).
How requests are retried is `http.py`'s business, how they are spelled `spelling.py`'s.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from engines import Completion, Request
from engines.openai.config import Config
from models import Endpoint, Model
from pipeline.errors import Refusal
from pipeline.placement import Placement

VERSION = 1
SCRIPTED = False
ENDPOINTS = True
"""`model` is an adopted endpoint, not a folder of weights."""


class OpenAI:
    """An open engine: one HTTP client, on an event loop of its own."""

    def __init__(self, config: Config, served: Endpoint, seed: int) -> None:
        import asyncio

        from engines.openai import http, spelling

        self._runner = asyncio.Runner()
        self._client = http.Client(config, _key(config), seed)
        self._spelling = spelling.Spelling(config, served)
        self.tokenizer: str | None = self._spelling.fingerprint

    def start(self) -> None:
        """See that the endpoint is there and serves the model, where it can be asked."""
        self._runner.run(self._spelling.check(self._client))

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        return self.complete_each(requests, lambda index, completion: None)

    def complete_each(self, requests: Sequence[Request], answered: Callable[[int, Completion], None]) -> list[Completion]:
        """As `complete`, and calls `answered(index, completion)` as soon as each answer is there.

        When one request fails for good, no other is begun, those in flight are awaited and handed on, and then it raises.
        """
        from engines.openai import asking

        return self._runner.run(asking.answer_all(self._spelling, self._client, requests, answered))

    @property
    def attempts(self) -> tuple[int, int]:
        """HTTP requests sent so far, and how many of them failed and were tried again or given up."""
        return self._client.attempts, self._client.retries

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


def _key(config: Config) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise Refusal(f"engine openai: the environment has no ${config.api_key_env}, which holds the key; set it where the step runs")
    if not key.isascii() or not key.isprintable():
        raise Refusal(f"engine openai: ${config.api_key_env} holds characters that no key has; set it again")
    return key


@contextmanager
def open(config: Config, model: Model | Endpoint, *, seed: int) -> Generator[OpenAI, None, None]:
    """Connect to the endpoint that serves `model`. `seed` spreads the waits between attempts."""
    if isinstance(model, Model):
        raise Refusal(
            f"{model.folder}: is a folder of weights, and nothing shows that the endpoint {config.base_url} serves those; "
            "give this node a model that was adopted with `endpoint: <model name>`, or another engine in the profile's overrides"
        )
    try:
        import httpx2  # noqa: F401
    except ModuleNotFoundError:
        raise Refusal("engine openai: the package httpx2 is not installed; pip install 'rematch[http]'") from None
    engine = OpenAI(config, model, seed)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def placement(config: Config) -> Placement:
    """Workers without GPUs."""
    return Placement(workers=config.replicas)
