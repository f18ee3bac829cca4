"""The cluster that steps run on: one of our own on this machine, or one that exists. Never one without authentication, unless asked."""

import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from pipeline import processes, rooms
from pipeline.errors import Problems, Refusal
from pipeline.executors.ray.config import Config
from pipeline.placement import Need, Placement, placement
from pipeline.plan import Step
from pipeline.profile import Profile

REACH_S = 10.0
OBJECT_STORE_BYTES = 100 << 20
"""Rows travel as paths; what crosses Ray is small."""

# Asks the control service for a key as a stranger would: without a token.
_STRANGER = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).internal_kv_keys(b"session_name", namespace=None, timeout=10)
print("open")
"""


@contextmanager
def connected(config: Config) -> Generator[None]:
    """Join the cluster at `config.address`, or start one that ends with this process, even if that is killed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled" if config.insecure else "token"
    _check_mode(config)
    if config.address:
        with _joined(config, config.address):
            yield
    else:
        with processes.guard(), _started(config):
            yield


def _check_mode(config: Config) -> None:
    """Raise Refusal if Ray was imported before it could be told to ask for tokens: it would not notice any more."""
    from ray._raylet import AuthenticationMode, get_authentication_mode  # pyright: ignore[reportAttributeAccessIssue] - it is compiled

    if not config.insecure and get_authentication_mode() != AuthenticationMode.TOKEN:
        raise Refusal(
            "executor ray: Ray was imported in this process without token authentication; set RAY_AUTH_MODE=token in the environment,"
            " or import pipeline first"
        )


@contextmanager
def _started(config: Config) -> Generator[None]:
    if not config.insecure:
        # A token of our own. Ray would write one to ~/.ray/auth_token, for everyone on this machine to read.
        # It stays, because Ray reads it once in the life of a process.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = rooms.path()  # workers must find the plugins that this process finds
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            include_dashboard=False,
            dashboard_host="127.0.0.1",
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=config.log_to_driver,
            logging_level=logging.WARNING,
        )
        yield
    finally:
        ray.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _joined(config: Config, address: str) -> Generator[None]:
    import ray
    from ray.exceptions import AuthenticationError

    _reach(address)
    try:
        ray.init(address=address, log_to_driver=config.log_to_driver, logging_level=logging.WARNING)
    except (AuthenticationError, ConnectionError) as error:
        # With a wrong token Ray says no more than that it cannot connect.
        raise Refusal(
            f"executor ray: no cluster that takes our token answers at {address} ({type(error).__name__}); check that one runs there,"
            " and put its token into RAY_AUTH_TOKEN, or the token's path into RAY_AUTH_TOKEN_PATH"
        ) from None
    try:
        if not config.insecure and _is_open(ray.get_runtime_context().gcs_address):
            raise Refusal(
                f"executor ray: the cluster at {address} lets anyone in, and anyone who reaches it can run code as you;"
                " start its nodes with RAY_AUTH_MODE=token, or set `insecure: true`"
            )
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise Refusal if nothing listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise Refusal(
            f"executor ray: nothing answers at {address} ({error}); start a cluster there, or leave out `address` to start one here"
        ) from None


def _is_open(address: str) -> bool:
    """Whether the cluster answers a client without a token. Asked by another process, because Ray reads its mode once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    call = [sys.executable, "-c", _STRANGER, address]
    asked = subprocess.run(call, env={**environment, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True)
    return asked.stdout.strip() == "open"


def check_room(steps: list[Step], profile: Profile) -> None:
    """Raise Problems for what the profile asks and the cluster will never have, before anything runs."""
    import ray

    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    problems: dict[tuple[frozenset[Need], Placement], str] = {}
    for step in steps:
        asked = placement(profile.at(step.node), step.uses)
        fits = sum(_fitting(node, asked) for node in nodes)
        # A map can do with fewer workers than asked for; ranks only start all at once.
        if fits < (asked.workers if "trainer" in step.uses else 1):
            problems.setdefault(
                (step.uses, asked),
                f"{step.address}: its {' and '.join(sorted(step.uses)) or 'workers'} asks for {asked.workers} x"
                f" ({asked.gpus:g} GPUs, {asked.cpus:g} cores),"
                f" and the cluster has room for {fits}: {_total(nodes, 'GPU')} GPUs and {_total(nodes, 'CPU')} cores on {len(nodes)} nodes;"
                " lower that in the profile, or add nodes",
            )
    if problems:
        raise Problems(list(problems.values()))


def _fitting(node: dict[str, float], asked: Placement) -> int:
    room = [int(node.get(name, 0.0) / each + 1e-6) for name, each in (("GPU", asked.gpus), ("CPU", asked.cpus)) if each]
    return min(room, default=asked.workers)


def _total(nodes: list[dict[str, float]], name: str) -> str:
    return f"{sum(node.get(name, 0.0) for node in nodes):g}"


def cause(error: Any) -> BaseException:
    """What was raised in the other process, with its own type; Ray's own error if the process is gone."""
    found = getattr(error, "cause", None)
    return found if isinstance(found, BaseException) else error
