"""A reporter for tests: appends what it is told to a file. Source: none, it exists for tests."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import Refusal
from pipeline.measured import Row
from pipeline.plugin import Settings

VERSION = 1


class Config(Settings):
    folder: str = "."
    """Where the file is."""


def check(config: Config) -> None:
    """Needs nothing."""


def report(config: Config, run_name: str, rows: Sequence[Row]) -> None:
    """One line: the run, the rounds, the series."""
    names = [f"{row.node}/{row.metric}" for row in rows]
    try:
        with (Path(config.folder) / "told.jsonl").open("a") as out:
            out.write(json.dumps([run_name, sorted({row.round for row in rows}), names]) + "\n")
    except FileNotFoundError as error:
        raise Refusal(f"tells: {error}; make the folder") from error
