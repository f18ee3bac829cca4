"""Prompts from Parquet files (parquet.apache.org): one file, or a folder of them in the order of their names."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import digest_of
from pipeline.errors import Refusal
from pipeline.plugin import unknown
from sources import Record
from sources._records import Fields, record

VERSION = 1


class Config(Fields):
    path: Path
    """A Parquet file, or a folder of `*.parquet`; a relative path counts from the folder in which `rematch` runs."""


def read(config: Config) -> Iterator[Record]:
    """The records of all files, row by row. A missing column is a Refusal with the near miss."""
    rows = 0
    for path in _files(config.path):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                names = file.schema_arrow.names
                for name in config.columns:
                    if name not in names:
                        raise Refusal(f"{path}: {unknown('column', name, names)}; name the source's fields as the file has them")
                at = 0
                for batch in file.iter_batches(1024, columns=config.columns):
                    for row in batch.to_pylist():
                        yield record(config, row, f"{path}, row {at}")
                        at += 1
                rows += at
        except (OSError, pa.ArrowInvalid) as error:
            raise Refusal(f"{path}: cannot be read as Parquet ({error}); check the file") from None
    if not rows:
        raise Refusal(f"{config.path}: holds no rows; name a Parquet file with prompts")


def origin(config: Config) -> dict[str, object]:
    """Which bytes were read."""
    return {"files": {str(path): digest_of(path) for path in _files(config.path)}}


def _files(path: Path) -> list[Path]:
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        what = "no *.parquet in this folder" if path.is_dir() else "no such file"
        raise Refusal(f"{path}: {what}; name a Parquet file, or a folder of them")
    return found
