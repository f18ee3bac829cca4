"""Reporters tell other systems the numbers of a run. This page is their whole contract; each file beside it is one reporter.

A reporter module is a `Reporter`. `check` raises Refusal if it cannot work here. `report` is called in the driver each time a
round is finished, with the rows of that round alone, and keeps nothing open afterwards. Rounds are the x axis, and 0 is the
start; a series is named `node/metric`. A round that was built again is reported again. What its library raises for reasons
that a user can mend becomes a Refusal, which costs a warning and not the run. Libraries are imported inside functions, keys
come from the environment and are never settings.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from pipeline.errors import Refusal
from pipeline.measured import Row
from pipeline.plugin import Settings


class Reporter(Protocol):
    """What a reporter module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    def check(self, config: Any) -> None: ...

    def report(self, config: Any, run_name: str, rows: Sequence[Row]) -> None: ...


def need(library: str, package: str) -> None:
    """Refusal if `library` cannot be imported; `package` is what to install."""
    if find_spec(library) is None:
        raise Refusal(f"reporters: {library} is not installed; `pip install {package}`, or leave the reporter out of the profile")
