"""The tables that stages exchange, and the one way they are written: Parquet, zstd, page checksums on both sides.

One row is one group (a prompt and all that hangs on it); tables are joined by `id` alone. The layout of the
files depends on nothing but the rows, so that the same rows have the same digest whatever machine, shard size
or number of workers made them.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import CorruptArtifact
from pipeline.ragged import pc

GROUP_ROWS = 1024
"""Rows of a Parquet row group."""
GROUP_BYTES = 64 * 2**20
"""Arrow data of a row group; a row that is larger has one to itself."""
FILE_GROUPS = 64
"""Row groups of one file. None is read whole, so this bounds what one holds, and no memory."""

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


def schema(table: str | pa.Schema) -> pa.Schema:
    """The columns of a table: by its name if it is one of TABLES, or as the stage that makes it declares them."""
    return table if isinstance(table, pa.Schema) else TABLES[table]


class Writer:
    """Writes one table below `folder` as `data-00000.parquet` and so on.

    A row group is as many rows as come to GROUP_ROWS and GROUP_BYTES, and at least one. Where it ends depends on the rows
    alone, and not on how they were appended.
    """

    def __init__(self, folder: Path, table: str | pa.Schema) -> None:
        self._folder, self._schema = folder, schema(table)
        self._pending: list[pa.Table] = []
        self._pending_rows = self._pending_bytes = self._file_groups = self._files = 0
        self.rows = 0
        self._file: pq.ParquetWriter | None = None

    def append(self, rows: pa.Table) -> None:
        """Add rows; columns must be those of the table, in any order."""
        rows = rows.select(self._schema.names).cast(self._schema)
        self.rows += rows.num_rows
        ends = np.concatenate([[0], np.cumsum(_row_bytes(rows))])
        start = 0
        while start < rows.num_rows:
            fits = int(np.searchsorted(ends, ends[start] + GROUP_BYTES - self._pending_bytes, "right")) - 1
            stop = max(min(fits, start + GROUP_ROWS - self._pending_rows), start if self._pending else start + 1)
            if stop > start:
                self._pending.append(rows.slice(start, stop - start))
                self._pending_rows += stop - start
                self._pending_bytes += int(ends[stop] - ends[start])
            if stop < rows.num_rows or self._pending_rows == GROUP_ROWS:
                self._write()
            start = stop

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None and (self._pending_rows or not self.rows):
            self._write()
        self._close()

    def _write(self) -> None:
        """Write what is pending as one row group."""
        file = self._file = self._file or self._open()
        joined = pa.concat_tables(self._pending) if self._pending else self._schema.empty_table()
        file.write_table(joined.combine_chunks(), row_group_size=GROUP_ROWS)
        self._pending = []
        self._pending_rows = self._pending_bytes = 0
        self._file_groups += 1
        if self._file_groups == FILE_GROUPS:
            self._close()

    def _open(self) -> pq.ParquetWriter:
        path = self._folder / f"data-{self._files:05d}.parquet"
        self._files += 1
        return pq.ParquetWriter(path, self._schema, compression="zstd", write_page_checksum=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._file_groups = 0


def _row_bytes(rows: pa.Table) -> np.ndarray:
    """Bytes of each row: values, offsets and validity, whatever the chunks, and nothing of what lies behind a null."""
    sizes = np.zeros(rows.num_rows, np.int64)
    for column in rows.columns:
        chunks = [_bits(chunk) for chunk in column.chunks]
        sizes += np.concatenate(chunks) if chunks else 0
    return -(-sizes // 8)


def _bits(array: Any) -> np.ndarray:
    """Bits of each item of an array."""
    kind = array.type
    if pa.types.is_struct(kind):
        return sum((_bits(each) for each in array.flatten()), np.ones(len(array), np.int64))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        ends = np.concatenate([[0], np.cumsum(_lengths("list_value_length", array))])
        items = np.concatenate([[0], np.cumsum(_bits(array.flatten()))])
        return items[ends[1:]] - items[ends[:-1]] + 33
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return 8 * _lengths("binary_length", array) + 33
    return np.full(len(array), 1 if pa.types.is_null(kind) else kind.bit_width + 1, np.int64)


def _lengths(measure: str, array: Any) -> np.ndarray:
    return pc.cast(pc.fill_null(pc.call_function(measure, [array]), 0), pa.int64()).to_numpy(zero_copy_only=False)


def write(folder: Path, table: str | pa.Schema, tables: Iterable[pa.Table]) -> int:
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
                        yield file.read_row_group(group, columns=columns).slice(first, last - first)
                    at += rows
                    if stop is not None and at >= stop:
                        return
        except (OSError, pa.ArrowInvalid) as error:
            raise CorruptArtifact(f"{path}: {error}; run `rematch verify`, then `rematch retire` the step and run again") from error


def read(folder: Path, columns: list[str] | None = None, *, start: int = 0, stop: int | None = None) -> pa.Table:
    """Rows [start, stop) of a table as one Arrow table."""
    parts = list(stream(folder, columns, start=start, stop=stop))
    if parts:
        return pa.concat_tables(parts).combine_chunks()
    empty = pq.read_schema(files(folder)[0]).empty_table()
    return empty.select(columns or empty.column_names)


def from_pylist(table: str | pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Python rows as an Arrow table; `meta` and `detail` may be given as data and become JSON. Missing columns are null."""
    columns = schema(table)
    for column in ("meta", "detail"):
        if column in columns.names:
            rows = [{**row, column: _json(row.get(column))} for row in rows]
    return pa.Table.from_pylist(rows, schema=columns)


def _json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
