"""One HTTP client to one endpoint: bounded concurrency, time-outs, and retries that wait with full jitter.

Waits are drawn evenly from 0 to an exponentially growing bound (M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015); 429 and `Retry-After` (RFC 9110, 10.2.3) hold back every request of the client. The key is
put on the wire and nowhere else. Knows nothing of prompts.
"""

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from engines import RequestRefused
from engines.openai.config import Config
from pipeline.artifact import hash_of

T = TypeVar("T")
log = logging.getLogger("rematch.openai")
AGAIN = (408, 409, 429)
"""Client errors that may pass: time-out, conflict, too many requests. All 5xx may pass as well."""
FINAL = (400, 413, 422)
"""Client errors about what is asked (its content, its length), rather than about who asks or where."""
SHOWN = 300
"""Characters of a server's message that are shown."""


class _Bearer(httpx2.Auth):
    """Holds the key, puts it on the wire, and strikes it from texts; its representation says nothing."""

    def __init__(self, key: str) -> None:
        self._key = key

    def strike(self, text: str) -> str:
        return text.replace(self._key, "[key]")

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._key}"
        yield request


class Client:
    """Asks one endpoint. All its coroutines run on one event loop."""

    def __init__(self, config: Config, key: str | None, seed: int) -> None:
        self._config, self._seed = config, seed
        self._auth = _Bearer(key) if key else None
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self.width = config.max_concurrency
        self._not_before = 0.0
        self.stopping = asyncio.Event()
        """Set once a request has failed for good: what waits for another attempt gives up, what is in flight is awaited."""
        self.attempts = self.retries = 0
        self._http = httpx2.AsyncClient(
            auth=self._auth,
            timeout=httpx2.Timeout(config.read_timeout_s, connect=config.connect_timeout_s, pool=None),
            limits=httpx2.Limits(max_connections=config.max_concurrency, max_keepalive_connections=config.max_concurrency),
            follow_redirects=False,  # a redirect would carry the key elsewhere
            trust_env=not config.is_loopback,  # a proxy from the environment is for the world outside
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, method: str, url: str, body: dict[str, Any] | None, read: Callable[[bytes], T], twin: int = 0) -> T:
        """What `read` makes of the answer; a ValueError of it counts as a malformed answer.

        All attempts bear one idempotency key, a hash of the body and `twin`, which tells requests apart that are equal
        on purpose. Raises RequestRefused (index -1) if the endpoint refuses, or gives no answer in `max_attempts`.
        """
        mark = hash_of([url, body, twin])[:32]
        problem, tried = "", 0
        async with self._slots:
            while tried < self._config.max_attempts and not (tried and self.stopping.is_set()):
                await self._held_back()
                self.attempts += 1
                done, answer, wait_s = await self._once(method, url, body, read, mark)
                if done:
                    return answer
                problem = answer
                tried += 1
                self.retries += 1
                log.info("%s: attempt %d: %s", url, tried, problem)
                if tried < self._config.max_attempts:
                    await self._pause(wait_s + self._jitter(mark, tried))
        raise RequestRefused(
            f"{url}: no answer in {tried} attempts, the last: {problem}; "
            "see whether the endpoint is well, raise the engine's max_attempts or time-outs, and run again"
        )

    async def _once(self, method: str, url: str, body: dict[str, Any] | None, read: Callable[[bytes], T], mark: str) -> Any:
        """(True, answer, 0), or (False, what went wrong, seconds that the server asks to wait)."""
        try:
            async with asyncio.timeout(self._config.total_timeout_s):
                response = await self._http.request(method, url, json=body, headers={"Idempotency-Key": mark, "X-Request-Id": mark})
        except TimeoutError:
            return False, f"no whole answer within {self._config.total_timeout_s:g} s", 0.0
        except httpx2.RequestError as error:
            return False, self.clean(f"{type(error).__name__} {error}"), 0.0
        if response.status_code == 200:
            try:
                return True, read(response.content), 0.0
            except ValueError as error:
                return False, self.clean(f"malformed answer ({error})"), 0.0
        said = f"{response.status_code}, {self._message(response)}"
        if response.status_code in AGAIN or response.status_code >= 500:
            wait_s = retry_after(response.headers)
            if wait_s > self._config.max_retry_after_s:
                raise RequestRefused(
                    f"{url}: asks to wait {wait_s:.0f} s ({said}), and max_retry_after_s is {self._config.max_retry_after_s:g}; "
                    "run again later, what is done is kept"
                )
            if wait_s > 0:
                self._not_before = max(self._not_before, asyncio.get_running_loop().time() + wait_s)
            return False, said, wait_s
        refused = RequestRefused(f"{url}: refused: {said}; {self._way_out(response.status_code)}")
        refused.final = response.status_code in FINAL
        raise refused

    async def _held_back(self) -> None:
        while (left := self._not_before - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not past the moment when the work is given up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    def _jitter(self, mark: str, tried: int) -> float:
        bound = min(self._config.max_backoff_s, self._config.backoff_s * 2.0 ** min(tried - 1, 60))
        return random.Random(f"{self._seed}/{mark}/{tried}").uniform(0, bound)

    def _message(self, response: httpx2.Response) -> str:
        text = response.text
        try:
            said: Any = json.loads(text)
        except ValueError:
            return repr(self.clean(text))
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and name in said:
                said = said[name]
        return repr(self.clean(said if isinstance(said, str) else json.dumps(said)))

    def clean(self, text: str) -> str:
        """One line of at most SHOWN characters, without the key: servers repeat it in what they say."""
        text = " ".join((self._auth.strike(text) if self._auth else text).split())
        return text if len(text) <= SHOWN else text[:SHOWN] + "..."

    def _way_out(self, status: int) -> str:
        if status in (401, 403):
            name = self._config.api_key_env
            return f"check the key in ${name}" if name else "it wants a key: name its environment variable in the engine's api_key_env"
        if status == 404 or 300 <= status < 400:
            return "check the engine's base_url (it usually ends in /v1) and the name of the model"
        return "change the request or the endpoint, and run again"


def retry_after(headers: httpx2.Headers) -> float:
    """Seconds of a Retry-After header, given in seconds or as a date; 0 if there is none or it cannot be read."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value)) if value.replace(".", "", 1).isdecimal() else _until(value, headers.get("date"))
    except (ValueError, TypeError):
        return 0.0


def _until(value: str, sent: str | None) -> float:
    """Seconds to a date, by the server's own clock where it says what that shows."""
    if not value:
        return 0.0
    now = parsedate_to_datetime(sent) if sent else datetime.now(UTC)
    return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
