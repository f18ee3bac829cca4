"""A stage for tests that wants what the profile gives to forward passes. Source: none, it exists for tests."""

from pathlib import Path
from typing import Annotated

from pipeline import rows
from pipeline.artifact import Artifact, Facts
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "prompts"


class Config(Settings):
    prompts: Annotated[str, Reads("prompts")]


def uses(config: Config) -> str:
    return "forward"


def run(config: Config, inputs: dict[str, tuple[Artifact, ...]], out: Path, tools: Tools) -> Facts:
    return {"rows": rows.write(out, "prompts", rows.stream(inputs["prompts"][0].path))}
