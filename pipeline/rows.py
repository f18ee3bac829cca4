"""The tables that stages exchange, and the one way they are written: Parquet, zstd, page checksums on both sides.

One row is one group (a prompt and all that hangs on it); tables are joined by `id` alone. The layout of the
files depends on nothing but the rows, so that the same rows have the same digest whatever machine, shard size
or number of workers made them.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import CorruptArtifact

GROUP_ROWS = 1024
"""Rows of a Parquet row group."""
FILE_ROWS = 64 * GROUP_ROWS
"""Rows of one file."""

# `tool_calls` is the JSON text of a list; null in a message without any.
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.string())]))
_TOKENS = pa.list_(pa.int32())
_MASK = pa.list_(pa.bool_())
_LOGPROBS = pa.list_(pa.list_(pa.float32()))
_PROMPT = [("id", pa.string()), ("prompt", MESSAGES), ("meta", pa.string())]
# `mask` has a flag for each of `token_ids`: whether it is trained on; null: every one is. `messages` is the whole of what was said after
# the prompt (calls of tools and their results); null: one assistant message whose content is `text`, which judges and people read.
RESPONSE = pa.struct(
    [
        ("text", pa.string()),
        ("token_ids", _TOKENS),
        ("logprob", pa.float64()),
        ("finish_reason", pa.string()),
        ("source", pa.string()),
        ("mask", _MASK),
        ("messages", MESSAGES),
    ]
)
_CANDIDATES = [*_PROMPT, ("prompt_token_ids", _TOKENS), ("tokenizer", pa.string()), ("responses", pa.list_(RESPONSE))]

TABLES: dict[str, pa.Schema] = {
    "prompts": pa.schema(_PROMPT),
    # `token_ids`, `prompt_token_ids` and `tokenizer` are null where no engine made the text (demonstrations).
    "candidates": pa.schema(_CANDIDATES),
    # `scores` has a null where the judge was undecided; `wins` is K x K or null; `detail` and `meta` are JSON.
    "judged": pa.schema(
        [
            *_CANDIDATES,
            ("scores", pa.list_(pa.float64())),
            ("wins", pa.list_(pa.list_(pa.float64()))),
            ("detail", pa.string()),
        ]
    ),
    # `chosen` and `rejected` are messages, so that TRL's DPOTrainer reads the table as it is; the masks are those of the responses.
    "pairs": pa.schema(
        [
            ("id", pa.string()),
            ("prompt_id", pa.string()),
            ("prompt", MESSAGES),
            ("chosen", MESSAGES),
            ("rejected", MESSAGES),
            ("prompt_token_ids", _TOKENS),
            ("chosen_token_ids", _TOKENS),
            ("rejected_token_ids", _TOKENS),
            ("chosen_mask", _MASK),
            ("rejected_mask", _MASK),
            ("tokenizer", pa.string()),
            ("chosen_score", pa.float64()),
            ("rejected_score", pa.float64()),
            ("chosen_win_rate", pa.float64()),
            ("rejected_win_rate", pa.float64()),
            ("label", pa.float64()),
            ("weight", pa.float64()),
            ("source_round", pa.int32()),
        ]
    ),
    # Of each response of the row with that id, (chosen, rejected) of a pair, one value for each token: null where it is masked out.
    "logprobs": pa.schema([("id", pa.string()), ("logprobs", _LOGPROBS)]),
}
_GROWN = {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES, "responses": pa.list_(RESPONSE)}
"""Columns whose items may have been written with fewer fields."""
_BESIDE = {"chosen_mask": "chosen_token_ids", "rejected_mask": "rejected_token_ids"}
"""Columns that a table may have been written without, and what stands beside them."""


class Writer:
    """Writes one table below `folder` as `data-00000.parquet` and so on, in row groups of exactly GROUP_ROWS."""

    def __init__(self, folder: Path, table: str) -> None:
        self._folder, self._schema = folder, TABLES[table]
        self._pending: list[pa.Table] = []
        self._pending_rows = self._file_rows = self._files = 0
        self.rows = 0
        self._file: pq.ParquetWriter | None = None

    def append(self, rows: pa.Table) -> None:
        """Add rows; columns must be those of the table, in any order."""
        rows = rows.select(self._schema.names).cast(self._schema)
        self.rows += rows.num_rows
        self._pending.append(rows)
        self._pending_rows += rows.num_rows
        while self._pending_rows >= GROUP_ROWS:
            self._write(GROUP_ROWS)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None and (self._pending_rows or not self.rows):
            self._write(self._pending_rows)
        self._close()

    def _write(self, rows: int) -> None:
        file = self._file = self._file or self._open()
        joined = pa.concat_tables(self._pending) if self._pending else self._schema.empty_table()
        file.write_table(joined.slice(0, rows).combine_chunks(), row_group_size=GROUP_ROWS)
        self._pending = [joined.slice(rows)] if joined.num_rows > rows else []
        self._pending_rows -= rows
        self._file_rows += rows
        if self._file_rows >= FILE_ROWS:
            self._close()

    def _open(self) -> pq.ParquetWriter:
        path = self._folder / f"data-{self._files:05d}.parquet"
        self._files += 1
        return pq.ParquetWriter(path, self._schema, compression="zstd", write_page_checksum=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._file_rows = 0


def write(folder: Path, table: str, tables: Iterable[pa.Table]) -> int:
    """Write a whole table below `folder`; returns the number of rows."""
    with Writer(folder, table) as writer:
        for rows in tables:
            writer.append(rows)
    return writer.rows


def files(folder: Path) -> list[Path]:
    """The Parquet files of an artifact, in row order."""
    return sorted(folder.glob("data-*.parquet"))


def count(folder: Path) -> int:
    """Rows of a table, from the footers alone."""
    return sum(pq.read_metadata(path).num_rows for path in files(folder))


def stream(folder: Path, columns: list[str] | None = None, *, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
    """Rows [start, stop) of a table in order, at most one row group at a time."""
    at = 0
    for path in files(folder):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    first, last = max(start - at, 0), min(rows, rows if stop is None else stop - at)
                    if first < last:
                        part = file.read_row_group(group, columns=columns).slice(first, last - first)
                        yield _as_now(part, columns, file.schema_arrow.names)
                    at += rows
        except (OSError, pa.ArrowInvalid) as error:
            raise CorruptArtifact(f"{path}: {error}; run `rematch verify`, then `rematch retire` the step and run again") from error


def read(folder: Path, columns: list[str] | None = None, *, start: int = 0, stop: int | None = None) -> pa.Table:
    """Rows [start, stop) of a table as one Arrow table."""
    parts = list(stream(folder, columns, start=start, stop=stop))
    if parts:
        return pa.concat_tables(parts).combine_chunks()
    schema = pq.read_schema(files(folder)[0])
    empty = schema.empty_table()
    return _as_now(empty if columns is None else empty.select([name for name in columns if name in schema.names]), columns, schema.names)


def _as_now(table: pa.Table, columns: list[str] | None, written: list[str]) -> pa.Table:
    """The rows with the columns and fields that were added since they were written, null."""
    for at, field in enumerate(table.schema):
        if field.name in _GROWN and _fields(field.type) < _fields(_GROWN[field.name]):
            table = table.set_column(at, field.name, table[field.name].cast(_GROWN[field.name]))
    for name, beside in _BESIDE.items():
        if beside in written and name not in written and (columns is None or name in columns):
            table = table.append_column(name, pa.nulls(table.num_rows, _MASK))
    return table


def _fields(kind: Any) -> set[str]:
    """The paths of all fields in a list of structs; none of anything else."""
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return {""}
    inner = list(kind.value_type)
    return {""}.union(*({field.name, *(f"{field.name}.{each}" for each in _fields(field.type))} for field in inner))


def from_pylist(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Python rows as an Arrow table; `meta` and `detail` may be given as data and become JSON. Missing columns are null."""
    schema = TABLES[table]
    for column in ("meta", "detail"):
        if column in schema.names:
            rows = [{**row, column: _json(row.get(column))} for row in rows]
    return pa.Table.from_pylist(rows, schema=schema)


def _json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
