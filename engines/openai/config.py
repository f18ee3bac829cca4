"""Where an OpenAI-compatible endpoint is, and how it is asked: the profile's settings."""

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from pipeline.plugin import Settings


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
