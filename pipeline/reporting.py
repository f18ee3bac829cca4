"""Tells a profile's reporters the numbers of each round as it is finished. Nothing is imported unless a profile asks for it.

Happens in the driver. A reporter that fails later than its check costs a warning, never the run: the numbers are in the
manifests, and `rematch export RUN --metrics FILE` has them all.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from pipeline import measured
from pipeline.artifact import Artifact
from pipeline.errors import Refusal
from pipeline.plan import Step
from pipeline.profile import Profile

Finished = Callable[[Artifact, str], None]


def check(profile: Profile) -> None:
    """Refusal if a reporter cannot work here, such as without its library; before anything runs."""
    for choice in profile.reporters:
        choice.module.check(choice.config)


def telling(steps: list[Step], todo: list[Step], profile: Profile, run: Path, finished: Finished) -> Finished:
    """`finished`, and then a report whenever the last missing step of a round is there."""
    if not profile.reporters:
        return finished
    waiting = {step.address for step in todo}

    def told(made: Artifact, address: str) -> None:
        finished(made, address)
        waiting.discard(address)
        section = address.partition("/")[0]
        if not any(each.startswith(f"{section}/") for each in waiting):
            _tell([step for step in steps if step.address.startswith(f"{section}/")], profile, run)

    return told


def _tell(steps: list[Step], profile: Profile, run: Path) -> None:
    found = measured.rows(steps, run)
    for choice in profile.reporters:
        try:
            choice.module.report(choice.config, run.absolute().name, found)
        except Refusal as error:
            where = steps[0].address.partition("/")[0]
            logging.getLogger("rematch.reporters").warning(f"{where} was not told to {choice.kind}: {error}")
