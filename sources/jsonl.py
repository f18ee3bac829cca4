"""Rows of a JSON Lines file: one object a line, UTF-8 (jsonlines.org). Blank lines are passed over."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifact import digest_of
from pipeline.errors import Refusal
from sources import Record
from sources._records import FOR_RECORDS as FOR_RECORDS
from sources._records import Fields, record

VERSION = 1


class Config(Fields):
    path: Path
    """The file; a relative path counts from the folder in which `rematch` runs."""


def read(config: Config) -> Iterator[Record]:
    """The records of the file, in its order. A malformed line is a Refusal with its number."""
    return (record(config, row, where) for where, row in rows(config))


def rows(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of the file as they are, each with its line."""
    count = 0
    try:
        with config.path.open("rb") as file:
            for at, line in enumerate(file, start=1):
                if line.strip():
                    count += 1
                    yield (where := f"{config.path}:{at}"), _parse(line, where)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise Refusal(f"{config.path}: {(error.strerror or 'cannot be read').lower()}; name a JSON Lines file that can be read") from None
    if not count:
        raise Refusal(f"{config.path}: holds no rows; put one JSON object on each line")


def origin(config: Config) -> dict[str, object]:
    """Which bytes were read."""
    return {"path": str(config.path), "blake3": digest_of(config.path)}


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Refusal(f"{where}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise Refusal(f"{where}: is not JSON ({error.msg}, column {error.colno}); mend the line, or remove it") from None
    if not isinstance(row, dict):
        raise Refusal(f"{where}: is a JSON {type(row).__name__}, not an object; put one object on each line")
    return row  # pyright: ignore[reportUnknownVariableType]
