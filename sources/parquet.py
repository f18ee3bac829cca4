"""Rows of Parquet files (parquet.apache.org): one file, or a folder of them in the order of their names.

A folder may be an artifact of a run, or what `rematch export` wrote.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import digest_of
from pipeline.errors import Refusal
from pipeline.plugin import unknown
from sources import Record
from sources._records import FOR_RECORDS as FOR_RECORDS
from sources._records import Fields, record

VERSION = 1


class Config(Fields):
    path: Path
    """A Parquet file, a pattern such as `data/train-*.parquet`, or a folder with `*.parquet` in it or in its `data`; a relative
    path counts from the folder in which `rematch` runs."""


def read(config: Config) -> Iterator[Record]:
    """The records of all files, row by row. A missing column is a Refusal with the near miss."""
    return (record(config, row, where) for where, row in _rows(config.path, config.columns))


def rows(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of all files with all their columns, each with its file and its number there."""
    return _rows(config.path, None)


def count(config: Config) -> int | None:
    """Rows of all files, from their footers; None if they are not there yet."""
    return sum(pq.read_metadata(path).num_rows for path in found) if (found := _found(config.path)) else None


def origin(config: Config) -> dict[str, object]:
    """Which bytes were read."""
    return {"files": {str(path): digest_of(path) for path in _files(config.path)}}


def _rows(folder: Path, columns: list[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    count = 0
    for path in _files(folder):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                names = file.schema_arrow.names
                for name in columns or ():
                    if name not in names:
                        raise Refusal(f"{path}: {unknown('column', name, names)}; name the source's fields as the file has them")
                at = 0
                for batch in file.iter_batches(1024, columns=columns):
                    for row in batch.to_pylist():
                        yield f"{path}, row {at}", row
                        at += 1
                count += at
        except (OSError, pa.ArrowInvalid) as error:
            raise Refusal(f"{path}: cannot be read as Parquet ({error}); check the file") from None
    if not count:
        raise Refusal(f"{folder}: holds no rows; name a Parquet file with rows")


def _found(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    return [path] if path.is_file() else sorted(path.parent.glob(path.name))


def _files(path: Path) -> list[Path]:
    found = _found(path)
    if not found:
        what = "no *.parquet in this folder" if path.is_dir() else "no such file"
        raise Refusal(f"{path}: {what}; name a Parquet file, or a folder of them")
    return found
