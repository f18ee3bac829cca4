"""A stage for benchmarks: exactly so many pairs of a table, so that two methods train on equally many.

Those with the lowest hashes of their ids are drawn, whatever their order; fewer than asked for are refused.
"""

from pathlib import Path
from typing import Annotated

from blake3 import blake3
from pydantic import Field

from pipeline import rows
from pipeline.artifact import Artifact, Facts
from pipeline.errors import Refusal
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "pairs"


class Config(Settings):
    rows: Annotated[str, Reads("pairs")]
    """What is drawn from."""
    count: int = Field(ge=1)
    """How many pairs are drawn."""


def run(config: Config, inputs: dict[str, tuple[Artifact, ...]], out: Path, tools: Tools) -> Facts:
    """Facts: rows, and how many there were."""
    table = rows.read(inputs["rows"][0].path)
    if table.num_rows < config.count:
        raise Refusal(f"{tools.address}: {config.count} pairs are asked for and there are {table.num_rows}; ask for fewer")
    ids = table["id"].to_pylist()
    drawn = sorted(range(len(ids)), key=lambda at: blake3(f"{tools.seed}:{ids[at]}".encode()).digest())[: config.count]
    return {"rows": rows.write(out, "pairs", [table.take(sorted(drawn))]), "of": table.num_rows}
