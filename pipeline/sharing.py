"""Steps that another run has already: hard-linked from the runs beside this one, instead of being built again.

A key holds no recipe's name, so the same step of a sibling has the same key at the same address. It is the same artifact
if it also read inputs of the same digests. Only what is published is looked at: drafts and attics are not.
"""

import errno
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline import artifact
from pipeline.artifact import Artifact, CorruptArtifact, Draft
from pipeline.plan import Step
from pipeline.recipe import RECIPE

_CANNOT = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""How a file system says that it cannot link these files here, or that they cannot be read."""


def linked(step: Step, inputs: dict[str, list[str]], made: Draft, run: Path) -> Artifact | None:
    """The artifact of `step`, published by links to a sibling's files; None if no sibling has it whole.

    `inputs` are the digests that the step reads, by slot. Every byte is hashed before it is shared. A step that reads no
    other is never linked: what it reads outside the run (a file, a hub) may have changed, and no digest here would tell.
    """
    for path in _siblings(run, step.address) if step.reads else ():
        name = path.relative_to(run.absolute().parent).parts[0]
        try:
            have = artifact.read(path)
            if have is None or have.manifest.dropped or have.manifest.key != step.key or _read(have.manifest.inputs) != _read(inputs):
                continue
            have = artifact.read(path, verify=True)
            shared = have and artifact.link(have, made, step.folder(run))
        except CorruptArtifact as error:
            _warn(step, name, str(error))
            continue
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            _warn(step, name, f"{error.strerror}")
            continue
        if shared:
            return replace(shared, linked_from=name)
    return None


def _read(inputs: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without slots that name nothing: an optional one is no part of a key either."""
    return {slot: digests for slot, digests in inputs.items() if digests}


def _siblings(run: Path, address: str) -> Iterator[Path]:
    """Where the runs beside this one have the step, by name."""
    for recipe in sorted(run.absolute().parent.glob(f"*/{RECIPE}")):
        if not recipe.parent.samefile(run):
            yield recipe.parent / address


def _warn(step: Step, name: str, why: str) -> None:
    logging.getLogger(f"rematch.{step.address.replace('/', '.')}").warning(
        f"{step.address}: is in the run {name}, and cannot be linked ({why}); it is built here"
    )
