"""A stage for tests that wants what the profile gives to forward passes. Source: none, it exists for tests."""

from typing import Annotated

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.placement import Need
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "prompts"


class Config(Settings):
    prompts: Annotated[str, Reads("prompts")]


def uses(config: Config) -> frozenset[Need]:
    return frozenset({"forward"})


def run(config: Config, tools: Tools) -> Facts:
    return {"rows": rows.write(tools.out, "prompts", rows.stream(tools.input("prompts").path))}
