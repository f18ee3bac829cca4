"""Executors run the steps of a plan somewhere. This page is their whole contract; each file or folder beside it is one executor.

`execute` builds `steps`, which stand in an order in which they can be built, through `pipeline.build.build`, each with a
`pipeline.tools.Pool`; the first failure ends it, and what is on disk is kept.
"""

from typing import Any, Protocol, cast

from pipeline.build import Context
from pipeline.plan import Step
from pipeline.plugin import Choice, Settings


class Executor(Protocol):
    """What an executor module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    def execute(self, config: Any, steps: list[Step], context: Context) -> None: ...


def of(choice: Choice) -> Executor:
    """The module of a choice, by its contract."""
    return cast(Executor, choice.module)
