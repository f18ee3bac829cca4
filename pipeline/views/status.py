"""What a run has, node by round, and who is at work on it: computed from its folder, changed by nothing here."""

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline import artifact, events
from pipeline.plan import Step, plan
from pipeline.recipe import sections
from pipeline.request import Asked, plain
from pipeline.run import LOCK, Status, status
from pipeline.shards import progress
from pipeline.views import screen


def collect(asked: Asked, *, verify: bool = False) -> dict[str, Any]:
    """The state of every step, as plain data."""
    steps = plan(asked.recipe, asked.profile)
    holder = held_by(asked.folder)
    found = status(steps, asked.folder, verify=verify)
    told = events.latest(asked.folder)
    entries = [entry(step, found[step.address], asked, holder is not None, told.get(step.address, {})) for step in steps]
    counts: dict[str, int] = {}
    for each in entries:
        counts[each["state"]] = counts.get(each["state"], 0) + 1
    return {
        "run": str(asked.folder),
        "recipe": asked.recipe.name,
        "profile": asked.profile.name,
        "rounds": asked.recipe.rounds,
        "held_by": holder,
        "counts": counts,
        "steps": entries,
    }


def entry(step: Step, found: Status, asked: Asked, held: bool, told: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One step: a missing one that has a draft is `running` while it or the run is held, and `begun` otherwise.

    `told` are its last events. Its parts are shards, or else what it last told of its progress.
    """
    state: str = found.state
    shards: tuple[int, int] | None = None
    draft = artifact.draft_folder(step.folder(asked.folder), step.key)
    if state == "missing" and draft.is_dir():
        state = "running" if held or _held(draft / "lock") else "begun"
        shards = progress(draft / "work" / "shards")
        if shards is None and "progress" in told:
            shards = told["progress"]["done"], told["progress"]["total"]
    return {
        "address": step.address,
        "round": step.round,
        "node": step.node,
        "stage": step.stage,
        "makes": step.makes,
        "reads": list(step.reads),
        "state": state,
        "why": found.why,
        "root": found.root,
        "shards_done": shards[0] if shards else None,
        "shards": shards[1] if shards else None,
        "linked_from": _linked_from(step, asked, told) if state == "done" else None,
    }


def _linked_from(step: Step, asked: Asked, told: dict[str, dict[str, Any]]) -> str | None:
    """The run that shares this artifact's files, as the run wrote down when it linked them; None if it was built here."""
    link, built = told.get("linked"), told.get("finished")
    have = artifact.read(step.folder(asked.folder))
    if link is None or have is None or have.manifest.digest != link["digest"] or (built and built["time"] > link["time"]):
        return None
    return str(link["run"])


def _held(lock: Path) -> bool:
    """Whether a process is at work on a draft."""
    try:
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def held_by(folder: Path) -> dict[str, Any] | None:
    """Who builds this run now: pid, host and since when; None if nobody does."""
    try:
        with (folder / LOCK).open() as handle:
            who = plain(json.loads(handle.read() or "{}"))
            if who.get("host") == socket.gethostname() and not _alive(who.get("pid")):
                return None
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return who
            return None
    except (OSError, ValueError):
        return None


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def render(data: dict[str, Any], asked: Asked, width: int) -> RenderableType:
    """The grid of nodes and rounds, what is wrong, and what to type next."""
    parts: list[RenderableType] = [_head(data), Text()]
    parts += grid(data, [name for name, _, _ in sections(asked.recipe)], width)
    wrong = [each for each in data["steps"] if each["state"] in ("stale", "corrupt") and each["root"]]
    parts += [Text(f"{each['address']}: is {each['state']}: {screen.safe(each['why'])}", style="yellow") for each in wrong]
    parts += _linked(data)
    followers = sum(each["state"] == "stale" and not each["root"] for each in data["steps"])
    if followers:
        parts.append(Text(f"{followers} more read these and are stale too.", style="yellow"))
    return Group(*parts, *_next(data, wrong))


def _linked(data: dict[str, Any]) -> list[RenderableType]:
    """Which steps share their files with which runs."""
    parts: list[RenderableType] = []
    for run in dict.fromkeys(each["linked_from"] for each in data["steps"] if each["linked_from"]):
        shared = [each["address"] for each in data["steps"] if each["linked_from"] == run]
        parts += [Text(f"linked from {screen.safe(run)}:"), *screen.by_round(shared), Text()]
    return parts


def _head(data: dict[str, Any]) -> Text:
    counts = ", ".join(f"{count} {state}" for state, count in data["counts"].items())
    return screen.heading(data["run"], f"recipe {data['recipe']}, profile {data['profile']}: {counts or 'no steps'}")


def _next(data: dict[str, Any], wrong: list[dict[str, Any]]) -> list[RenderableType]:
    run, holder = data["run"], data["held_by"]
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}" if holder else ""
        return [Text(f"It is being built by {who}.")]
    if wrong and all(each["state"] == "corrupt" for each in wrong):
        return _mend(run, wrong)
    if wrong:
        return [
            Text("To replace what is there (it moves to the attic):"),
            screen.command(f"rematch run {run} --from {wrong[0]['address']}"),
        ]
    if set(data["counts"]) - {"done", "dropped"}:
        return [Text("To build what is missing:"), screen.command(f"rematch run {run}")]
    return [Text("All is there. To look at it:"), screen.command(f"rematch show {run}")]


def _mend(run: str, damaged: list[dict[str, Any]]) -> list[RenderableType]:
    addresses = " ".join(each["address"] for each in damaged)
    return [
        Text("To move what is damaged to the attic, and build it again:"),
        screen.command(f"rematch retire {run} {addresses}"),
        screen.command(f"rematch run {run}"),
    ]


def grid(data: dict[str, Any], folders: list[str], width: int) -> list[RenderableType]:
    """Nodes down, rounds across; as many tables below each other as the width asks for."""
    cells = {each["address"]: _cell(each) for each in data["steps"]}
    nodes = list(dict.fromkeys(each["node"] for each in data["steps"]))
    label = max((len(node) for node in nodes), default=0)
    column = max([8, *(len(cell) for cell in cells.values())]) + 2
    fit = max((width - label - 2) // column, 1)
    made: list[RenderableType] = []
    for at in range(0, len(folders), fit):
        here = folders[at : at + fit]
        shown = [node for node in nodes if any(f"{folder}/{node}" in cells for folder in here)]
        rows = [[node, *(screen.state(cells.get(f"{folder}/{node}", "")) for folder in here)] for node in shown]
        made += [screen.table([("", "left"), *((folder, "left") for folder in here)], rows), Text()]
    return made


def _cell(each: dict[str, Any]) -> str:
    if each["shards_done"] is None:
        return each["state"]
    return f"{each['state']} {each['shards_done']}/{each['shards']}"


def render_verified(data: dict[str, Any]) -> RenderableType:
    """What re-hashing found."""
    bad = [each for each in data["steps"] if each["state"] == "corrupt"]
    parts: list[RenderableType] = [Text(f"{each['address']}: {screen.safe(each['why'])}", style="bold red") for each in bad]
    whole = sum(each["state"] in ("done", "stale") for each in data["steps"])
    parts += _mend(data["run"], bad) if bad else []
    return Group(_head(data), *parts, Text(f"{whole} artifacts are byte for byte what their manifests say, {len(bad)} are damaged."))
