"""Scores every response 1 and remembers the folder of its model. Source: ours, for tests."""

from collections.abc import Sequence
from typing import Annotated

from judges import Group, Verdict
from pipeline.placement import NOTHING
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
USES = NOTHING


class Config(Settings):
    model: Annotated[str, Reads()]
    """Anything."""


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """The detail names the model's folder."""
    return [Verdict((1.0,) * len(group.responses), detail={"model": tools.input("model").path.name}) for group in groups]
