"""Text generation by any endpoint that speaks the OpenAI chat API (platform.openai.com/docs/api-reference/chat), over HTTP.

The recipe says what answers (`adopt` with `endpoint: <model name>`), the profile where it is. Keys come from the
environment alone. Token ids and options of several tokens need vLLM's extensions (tested with `vllm serve` 0.32).
How requests are retried is `_openai_http.py`'s business, how they are spelled `_openai_body.py`'s.
"""

import ipaddress
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from engines import Completion, Request
from pipeline.errors import Refusal
from pipeline.model import Endpoint, endpoint
from pipeline.plugin import Settings
from pipeline.tools import Placement

VERSION = 1
SCRIPTED = False
ENDPOINTS = True
"""`model` is an adopted endpoint, not a folder of weights."""


class Config(Settings):
    base_url: str = Field(pattern=r"^https?://\S+$")
    """Where the API is, such as `https://api.openai.com/v1` or `http://127.0.0.1:8000/v1`."""
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; None: no key is sent. The key itself is never written anywhere."""
    insecure: bool = False
    """Send a key over plain http to another machine."""
    extensions: Literal["none", "vllm"] = "none"
    """`vllm`: the endpoint is `vllm serve`: top_k, token ids and their log-probabilities, options of any length."""
    omit: tuple[Literal["temperature", "top_p", "seed", "n"], ...] = ()
    """Fields that this endpoint does not take. Without `n`, n responses are n requests; temperature and top_p only where 1 is asked."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What this endpoint calls the longest response."""
    max_concurrency: int = Field(16, ge=1)
    """Requests in flight at once, of each worker."""
    max_attempts: int = Field(8, ge=1)
    """Attempts at each request, the first included."""
    backoff_s: float = Field(0.5, gt=0)
    """The wait before the second attempt is drawn from 0 to this, and the bound doubles with every attempt."""
    max_backoff_s: float = Field(60.0, gt=0)
    """Where that doubling ends."""
    max_retry_after_s: float = Field(600.0, ge=0)
    """Longest wait that a server's Retry-After is granted; a longer one ends the step."""
    connect_timeout_s: float = Field(10.0, gt=0)
    """Longest wait for a connection."""
    read_timeout_s: float = Field(300.0, gt=0)
    """Longest silence of the server; an answer that is not streamed is silent until it is complete."""
    total_timeout_s: float = Field(900.0, gt=0)
    """Longest duration of one attempt."""
    replicas: int = Field(1, ge=1)
    """Worker processes; one is enough for most endpoints."""

    @model_validator(mode="after")
    def _keys_stay_secret(self) -> "Config":
        url = urlsplit(self.base_url)
        if not url.hostname:
            raise ValueError(f"base_url: names no host; write it as 'https://host/v1', not {self.base_url!r}")
        if url.username is not None or url.password is not None or url.query or url.fragment:
            raise ValueError("base_url: holds a user, a password, a query or a fragment; put the key into an environment variable instead")
        if url.scheme == "http" and self.api_key_env and not self.is_loopback and not self.insecure:
            raise ValueError(
                f"base_url: would send the key in ${self.api_key_env} unencrypted to {url.hostname}; use https, or say `insecure: true`"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


class OpenAI:
    """An open engine: one HTTP client, on an event loop of its own."""

    def __init__(self, config: Config, served: Endpoint, seed: int) -> None:
        import asyncio

        from engines import _openai_body, _openai_http

        self._runner = asyncio.Runner()
        self._client = _openai_http.Client(config, _key(config), seed)
        self._spelling = _openai_body.Spelling(config, served)
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
        from engines import _openai_body

        return self._runner.run(_openai_body.answer_all(self._spelling, self._client, requests, answered))

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
def open(config: Config, model: Path, *, seed: int) -> Generator[OpenAI, None, None]:
    """Connect to the endpoint whose model `model` names (an adopted endpoint). `seed` spreads the waits between attempts."""
    served = endpoint(model)
    if served is None:
        raise Refusal(
            f"{model}: is a folder of weights, and nothing shows that the endpoint {config.base_url} serves those; "
            "give this node a model that was adopted with `endpoint: <model name>`, or another engine in the profile's overrides"
        )
    try:
        import httpx  # noqa: F401
    except ModuleNotFoundError:
        raise Refusal("engine openai: the package httpx is not installed; pip install 'rematch[http]'") from None
    engine = OpenAI(config, served, seed)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def placement(config: Config) -> Placement:
    """Workers without GPUs."""
    return Placement(workers=config.replicas)
