"""A stage for tests whose rows hold what it adds to each prompt and lean on their input for the rest, as an adapter does.

Source: none, it exists for tests.
"""

from typing import Annotated

from pipeline import rows
from pipeline.artifact import Artifact, Facts
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "prompts"


class Config(Settings):
    prompts: Annotated[str, Reads("prompts")]
    suffix: str = "!"
    """What is added to each prompt."""
    merge: bool = False
    """Write whole prompts, which lean on nothing."""


def run(config: Config, tools: Tools) -> Facts:
    source = tools.input("prompts")
    whole = [text + config.suffix for text in texts(source)]
    if not config.merge:
        tools.lean_on("prompts")
    ids = rows.read(source.path, ["id"])["id"].to_pylist()
    said = whole if config.merge else [config.suffix] * len(whole)
    made = [{"id": id, "prompt": [{"role": "user", "content": text}]} for id, text in zip(ids, said, strict=True)]
    return {"rows": rows.write(tools.out, "prompts", [rows.from_pylist("prompts", made)]), "first": whole[0]}


def texts(source: Artifact) -> list[str]:
    """The whole prompts of an artifact: what its bases say, the farthest first, and what it adds."""
    parts = [rows.read(path, ["prompt"])["prompt"].to_pylist() for path in (*reversed(source.bases), source.path)]
    return ["".join(prompt[0]["content"] for prompt in row) for row in zip(*parts, strict=True)]
