"""Run what is missing. A run is a folder of artifacts; its status is computed from them and stored nowhere."""

import difflib
import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pipeline import artifact, document, events, lifetimes, reporting
from pipeline import profile as profiles
from pipeline import recipe as recipes
from pipeline.artifact import Artifact, CorruptArtifact
from pipeline.build import Context
from pipeline.errors import Problems, Refusal, missing, storage
from pipeline.plan import Step, dependents, plan
from pipeline.plugin import unknown
from pipeline.profile import Profile
from pipeline.recipe import RECIPE, Recipe

PROFILE, LOCK, ATTIC = "profile.yaml", "LOCK", "attic"

State = Literal["done", "dropped", "missing", "stale", "corrupt"]


@dataclass(frozen=True)
class Status:
    state: State
    why: str = ""
    """What changed, or what is damaged."""
    root: bool = True
    """False if it is stale only because something that it reads is."""


def status(steps: list[Step], run: Path, *, verify: bool = False) -> dict[str, Status]:
    """The state of every step, by address. `verify` re-hashes every file instead of comparing sizes."""
    found: dict[str, Status] = {}
    digests: dict[str, str] = {}
    for step in steps:
        found[step.address] = _status(step, run, found, digests, verify)
    return found


def _status(step: Step, run: Path, found: dict[str, Status], digests: dict[str, str], verify: bool) -> Status:
    try:
        have = artifact.read(step.folder(run), verify=verify)
        if have is not None and verify and not have.manifest.dropped and hasattr(step.module, "verify"):
            step.module.verify(have)
    except CorruptArtifact as error:
        return Status("corrupt", str(error))
    if have is None:
        return Status("missing")
    digests[step.address] = have.manifest.digest
    if have.manifest.key != step.key:
        changes = difference(have.manifest.identity, step.identity)
        own = [change for change in changes if not change.startswith("inputs.")]
        if own:
            return Status("stale", "; ".join(own))
        behind = [address for address in step.reads if found[address].state == "stale"]
        if behind:
            return Status("stale", f"reads {', '.join(behind)}", root=False)
        return Status("stale", "reads other nodes than it did")
    for slot, addresses in step.inputs.items():
        # An input that is missing now cannot have changed what was made from it.
        now = [digests.get(address) for address in addresses]
        if any(was != is_ for was, is_ in zip(have.manifest.inputs.get(slot, []), now, strict=True) if is_ is not None):
            return Status("stale", f"its input '{slot}' was rebuilt since, with other bytes")
    return Status("dropped" if have.manifest.dropped else "done")


def difference(old: Any, new: Any, at: str = "") -> list[str]:
    """What changed between two values of plain data, a line for each leaf: `judge.kind: 'length' -> 'pairrm'`."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{at or 'value'}: {_short(old)} -> {_short(new)}"]
    before, after = cast(dict[str, Any], old), cast(dict[str, Any], new)
    changes: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        # "settings." says nothing to a reader of the recipe.
        here = name if not at else at if name == "settings" else f"{at}.{name}"
        here = "" if not at and name == "settings" else here
        absent = "(default)"
        changes += difference(before.get(name, absent), after.get(name, absent), here)
    return changes


def _short(value: Any) -> str:
    text = value if value == "(default)" else repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def check(steps: list[Step], run: Path, *, verify: bool = False) -> dict[str, Status]:
    """Like `status`, but raises Problems where something is stale or corrupt, saying how to go on."""
    found = status(steps, run, verify=verify)
    bad = {address: each for address, each in found.items() if each.state in ("stale", "corrupt")}
    if bad:
        followers = sum(not each.root for each in bad.values())
        lines = [f"{address}: is {each.state}: {each.why}" for address, each in bad.items() if each.root]
        first = next((address for address, each in bad.items() if each.root), next(iter(bad)))
        also = f" {followers} more that read them are stale too." if followers else ""
        lines.append(
            f"{run}: nothing was run.{also} To keep what is there, run under another name (--run), or fork."
            f" To replace it: `rematch run ... --from {first}`; what is replaced moves to {run / ATTIC}."
        )
        raise Problems(lines)
    return found


def run(recipe: Recipe, profile: Profile, folder: Path, *, start_at: str | None = None, context: Context | None = None) -> list[str]:
    """Build every missing step of a recipe in `folder`, and return the addresses that were built.

    What a run beside this one has already is linked instead, unless the profile says `reuse: none`, or `start_at` names it.
    What the recipe does not keep (`keep: false`) is dropped as soon as all that reads it is done.

    `start_at` (`round-02` or `round-02/pairs`) first retires that part and whatever reads it.
    Raises Refusal for anything the user can mend; finished shards and checkpoints are kept.
    """
    steps = plan(recipe, profile)
    reporting.check(profile)
    again = affected(steps, start_at) if start_at else []
    with locked(folder):
        retire(folder, again)
        states = check(steps, folder)
        record(recipe, profile, folder)
        for step in steps:
            if states[step.address].state == "done":
                artifact.sweep(step.folder(folder), step.key)
        todo = lifetimes.to_build(steps, {address: each.state for address, each in states.items()})
        retire(folder, [step.address for step in todo if states[step.address].state == "dropped"])
        context = replace(context or Context(run=folder, profile=profile), again=frozenset(again))
        context = replace(context, finished=reporting.telling(steps, todo, profile, folder, context.finished))
        with events.Log(folder, recipe=recipe.name, profile=profile.name, todo=len(todo)) as log:
            context = _logged(context, log)
            context = replace(context, finished=lifetimes.dropping(steps, todo, folder, context.finished))
            _execute(todo, context)
    return log.built


def _execute(todo: list[Step], context: Context) -> None:
    executor = context.profile.executor
    try:
        executor.module.execute(executor.config, todo, context)
    except ModuleNotFoundError as error:
        raise missing(error, f"executor {executor.kind}") or error from error


def _logged(context: Context, log: events.Log) -> Context:
    """The context, whose callbacks are written down too."""

    def started(address: str) -> None:
        log.started(address)
        context.started(address)

    def report(address: str, done: int, total: int) -> None:
        log.report(address, done, total)
        context.report(address, done, total)

    def finished(made: Artifact, address: str) -> None:
        log.finished(made, address)
        context.finished(made, address)

    return replace(context, started=started, report=report, finished=finished)


def build_step(recipe: Recipe, profile: Profile, folder: Path, address: str, *, context: Context | None = None) -> list[str]:
    """Build one step of a run whose inputs are done; returns its address, or nothing if it was there or was linked.

    Steps of one run may be built at once, by several processes; what is not kept is dropped by the next `run`.
    """
    steps = plan(recipe, profile)
    by_address = {step.address: step for step in steps}
    if address not in by_address:
        raise Refusal(f"{address}: {unknown('step', address, list(by_address))}")
    step = by_address[address]
    with locked(folder, shared=True):
        states = status(steps, folder)
        if states[address].state == "done":
            return []
        if states[address].state != "missing":
            raise Refusal(
                f"{address}: is {states[address].state}{f': {states[address].why}' * bool(states[address].why)}; "
                f"`rematch retire {folder} {address}` moves it to the attic, then build it again"
            )
        lacking = [each for each in step.reads if states[each].state != "done"]
        if lacking:
            reads = ", ".join(f"{each} ({states[each].state})" for each in lacking)
            raise Refusal(
                f"{address}: reads {reads}; build that first: `rematch build {folder} {lacking[0]}`, or all of it: `rematch run {folder}`"
            )
        context = context or Context(run=folder, profile=profile)
        with events.Log(folder, recipe=recipe.name, profile=profile.name, todo=1) as log:
            _execute([step], _logged(context, log))
    return log.built


def affected(steps: list[Step], start_at: str) -> list[str]:
    """The addresses that `--from` names, with everything that reads them."""
    addresses = [step.address for step in steps]
    roots = {a for a in addresses if a == start_at}
    if not roots:
        folders = sorted({a.split("/")[0] for a in addresses})
        if start_at not in folders:
            near = difflib.get_close_matches(start_at, addresses, n=1) if "/" in start_at else []
            known = f"did you mean '{near[0]}'?" if near else f"rounds: {', '.join(folders)}"
            raise Refusal(f"--from {start_at}: the recipe has no such round or step; {known}")
        roots = {a for a in addresses if start_at == "start" or (a >= start_at and not a.startswith("start/"))}
    return dependents(steps, roots)


def retire(folder: Path, addresses: list[str]) -> list[str]:
    """Move artifacts and their drafts to the attic, and first what leans on them, which could not be read without them.

    Returns the addresses that had something to move.
    """
    addresses = [*(each for each in artifact.leaners(folder, addresses) if each not in addresses), *addresses]
    attic = folder / ATTIC / time.strftime("%Y%m%d-%H%M%S")
    while attic.exists():
        attic = attic.with_name(attic.name + "x")
    moved: list[str] = []
    for address in addresses:
        path = folder / address
        for each in (path, *path.parent.glob(f".{path.name}.*")):
            if each.exists():
                target = attic / each.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(each, target)
                moved.append(address)
    if moved:
        events.append(folder, "retired", addresses=list(dict.fromkeys(moved)), to=str(attic.relative_to(folder)))
    return list(dict.fromkeys(moved))


def fork(origin: Path, folder: Path, *, at: int, changes: list[str]) -> tuple[Recipe, list[str]]:
    """Make a new run that shares, by hard link, every artifact of `origin` that its changed recipe still asks for.

    Changes apply from round `at` on. Returns the new recipe and the addresses that are shared.
    """
    if folder.exists():
        raise Refusal(f"{folder}: exists already; choose another name for the fork")
    beside = next(parent for parent in folder.absolute().parents if parent.exists())
    if beside.stat().st_dev != origin.stat().st_dev:
        raise Refusal(f"{folder}: is on another disk than {origin}, and a fork shares files by hard link; fork to a folder beside it")
    body = recipes.read(origin / RECIPE)
    for change in changes:
        body = recipes.set_value(body, change, from_round=at)
    recipe = recipes.make({**body, "name": folder.name}, str(folder))
    profile = recorded(origin)[1]
    steps = plan(recipe, profile)  # before anything is made, so that a slip in `changes` leaves no folder behind
    there = [(step, artifact.read(step.folder(origin))) for step in steps]
    # What a shared artifact leans on is shared too: the keys of its inputs are in its own.
    shared = [(step, have) for step, have in there if have is not None and have.manifest.key == step.key]
    linked: list[str] = []
    with locked(folder):
        record(recipe, profile, folder)
        for step, have in shared:
            with artifact.draft(step.folder(folder), step.key) as draft:
                made = artifact.link(have, draft, step.folder(folder))
            if made is not None:
                events.append(folder, "linked", address=step.address, digest=have.manifest.digest, run=origin.absolute().name)
                linked.append(step.address)
    return recipe, linked


def record(recipe: Recipe, profile: Profile, folder: Path) -> None:
    """Put the recipe and the profile into the run, so that it explains itself. What they replace moves to the attic."""
    for name, body in ((RECIPE, recipes.whole_of(recipe)), (PROFILE, profiles.plain(profile))):
        text = document.written(body)
        path = folder / name
        if path.exists() and path.read_text() != text:
            old = folder / ATTIC / f"{time.strftime('%Y%m%d-%H%M%S')}-{artifact.digest_of(path)[:8]}-{name}"
            old.parent.mkdir(exist_ok=True)
            os.replace(path, old)
        if not path.exists():
            artifact.write_file(path, text.encode())


def recorded(folder: Path, profile: Path | None = None) -> tuple[Recipe, Profile]:
    """The recipe that a run was last started with, and the profile: its own, or the one in another file."""
    if not (folder / RECIPE).is_file():
        runs = sorted(path.parent.name for path in folder.parent.glob(f"*/{RECIPE}"))
        raise Refusal(f"{folder}: is not a run; runs beside it: {', '.join(runs) or 'none'}")
    recipe = recipes.make(recipes.read(folder / RECIPE), str(folder / RECIPE))
    return recipe, profiles.load(profile or folder / PROFILE)


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Generator[None]:
    """Hold a run for this process alone, or for builds of single steps. The kernel frees it when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("a+")
    except OSError as error:
        raise Refusal(f"{folder}: cannot be written ({error.strerror}); check its permissions, or choose another --runs folder") from None
    with handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise Refusal(f"{folder}: is held by {_holder(handle.read())}; wait for it, or end it") from None
        me: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        me = {"shared": True} if shared else me
        try:
            handle.truncate(0)
            os.write(handle.fileno(), json.dumps(me).encode())  # with a buffer, a full disk would strike again on closing
            yield
        except OSError as error:
            refusal = storage(error, str(folder), folder)
            if refusal is None:
                raise
            raise refusal from error


def _holder(text: str) -> str:
    try:
        who = json.loads(text)
        if who.get("shared"):
            return "`rematch build` of some of its steps"
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (ValueError, KeyError):
        return "another process, which has only just started"
