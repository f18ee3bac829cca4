"""A stage for tests: makes prompts out of nothing. Source: none, it exists for tests."""

from pipeline import rows
from pipeline.artifact import Facts
from pipeline.plugin import Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "prompts"


class Config(Settings):
    take: int = 10
    """How many."""


def run(config: Config, tools: Tools) -> Facts:
    made = [
        {"id": f"p{i:06d}", "prompt": [{"role": "user", "content": f"say {(tools.seed + i) % 997}"}], "meta": {"answer": str(i)}}
        for i in range(config.take)
    ]
    return {"rows": rows.write(tools.out, "prompts", [rows.from_pylist("prompts", made)])}
