"""An OpenAI-compatible endpoint on 127.0.0.1 that misbehaves on request, and counts what it was asked and what it answered.

It answers by itself, or hands what it is asked on to a real endpoint. Requests are told apart by their idempotency key.
"""

import hashlib
import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Fault = Callable[[str, int], str | None]
"""(idempotency key, attempt from 0) -> what goes wrong; None: nothing."""
KINDS = (
    "429",
    "429-seconds",
    "429-date",
    "408",
    "500",
    "503",
    "529",
    "reset",
    "silence",
    "drip",
    "truncated",
    "malformed",
    "empty",
    "lost",
)
FREE = ("429", "429-seconds", "429-date", "408", "500", "503", "529", "reset")
"""Faults after which the endpoint has not answered: an attempt that costs nothing."""


def planned(seed: int, share: float = 0.5, most: int = 3, kinds: tuple[str, ...] = KINDS) -> Fault:
    """Each request fails 0 to `most` times, by its key alone."""

    def fault(mark: str, attempt: int) -> str | None:
        draw = random.Random(f"{seed}/{mark}/{attempt}")
        return draw.choice(kinds) if attempt < most and draw.random() < share else None

    return fault


def says(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A good answer: its text depends on the last message, the sample and nothing else."""
    asked = body["messages"][-1]["content"]
    choices = [
        {"index": i, "message": {"role": "assistant", "content": f"answer {i} to {asked}"}, "finish_reason": "stop"}
        for i in range(body.get("n", 1))
    ]
    return 200, {"choices": choices[::-1], "usage": {"prompt_tokens": len(asked), "completion_tokens": 3 * len(choices)}}


class FaultyServer:
    """A running server. `answer` maps the body of a request to a status and a body; `upstream` is used instead of it."""

    def __init__(
        self,
        faults: Fault = lambda mark, attempt: None,
        *,
        answer: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]] = says,
        upstream: str | None = None,
        delay_s: float = 0.0,
        silence_s: float = 5.0,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.faults, self.answer, self.upstream, self.delay_s, self.silence_s = faults, answer, upstream, delay_s, silence_s
        self.headers = headers or {}
        self.attempts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.prompts: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.times: dict[str, list[float]] = defaultdict(list)
        self.keys: set[str | None] = set()
        self.in_flight: set[str] = set()
        self.peak = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "FaultyServer":
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def asked(self) -> Counter[str]:
        """How often each prompt was asked."""
        with self.lock:
            return sum((Counter({self.prompts[mark]: n}) for mark, n in self.attempts.items()), Counter())


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, *rest: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send(*forward(server.upstream, self.path, "GET", b"", self.headers) if server.upstream else (404, b"{}"))

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(raw)
            mark = self.headers.get("Idempotency-Key") or hashlib.sha256(raw).hexdigest()
            with server.lock:
                attempt = server.attempts[mark]
                server.attempts[mark] += 1
                server.bodies.append(body)
                server.prompts[mark] = body["messages"][-1]["content"] if "messages" in body else str(body.get("prompt"))
                server.times[mark].append(time.monotonic())
                server.keys.add(self.headers.get("Authorization"))
                server.in_flight.add(mark)
                server.peak = max(server.peak, len(server.in_flight))
            try:
                fault = server.faults(mark, attempt)
                if fault:
                    with server.lock:
                        server.injected[fault] += 1
                    self.fail(fault, body, raw)
                else:
                    server.closing.wait(server.delay_s)
                    self.send(*self.made(body, raw), **server.headers)
                    with server.lock:
                        server.answered[mark] += 1
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has left
            finally:
                with server.lock:
                    server.in_flight.discard(mark)

        def made(self, body: dict[str, Any], raw: bytes) -> tuple[int, bytes]:
            if server.upstream:
                return forward(server.upstream, self.path, "POST", raw, self.headers)
            status, answer = server.answer(body)
            return status, json.dumps(answer).encode()

        def fail(self, fault: str, body: dict[str, Any], raw: bytes) -> None:
            if fault in ("429-seconds", "429-date"):
                # HTTP dates have whole seconds, so this asks for a wait of 1 to 2 seconds.
                value = "1" if fault == "429-seconds" else formatdate(time.time() + 2, usegmt=True)
                self.send(429, b'{"error": {"message": "slow down"}}', **{"Retry-After": value})
            elif fault.isdigit():
                self.send(int(fault), json.dumps({"error": {"message": f"trouble {fault}"}}).encode())
            elif fault == "silence":
                server.closing.wait(server.silence_s)
                self.reset()
            elif fault == "malformed":
                self.send(200, self.made(body, raw)[1][:-9])
            elif fault == "empty":
                self.send(200, b'{"choices": []}')
            elif fault == "lost":  # answered, and the answer never arrives
                self.made(body, raw)
                self.reset()
            elif fault == "reset":
                self.reset()
            else:
                self.part(fault, self.made(body, raw)[1])

        def part(self, fault: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == "drip":  # never silent for long, and never done
                for at in range(len(content) - 1):
                    self.wfile.write(content[at : at + 1])
                    self.wfile.flush()
                    if server.closing.wait(0.1):
                        break
            else:
                self.wfile.write(content[: len(content) // 2])
            self.close_connection = True

        def send(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True
            self.connection.close()

    return Handler


def forward(upstream: str, path: str, method: str, raw: bytes, headers: Any) -> tuple[int, bytes]:
    """Ask the real endpoint."""
    connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=600)
    kept = {name: headers[name] for name in ("Authorization", "Content-Type") if headers.get(name)}
    try:
        connection.request(method, path, body=raw or None, headers=kept)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
