"""Pages of PostgreSQL's CSV as Arrow tables, and as a Parquet file that is made while they come.

In: CSV text, page by page, without a header. Out: tables, or chunks of a file. Guarantee: memory is bounded; NULL
and the empty text are told apart, and integers are exact.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

GROUP_ROWS: Final = 4_000
"""Rows of a Parquet row group: what the writer holds."""


def parquet(schema: pa.Schema, pages: Iterable[bytes]) -> Iterator[bytes]:
    """The file's bytes, one chunk per page, some of them empty."""
    sink = _Outlet()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        held: list[pa.Table] = []
        for page in pages:
            if page:
                held.append(read_page(page, schema))
            if sum(table.num_rows for table in held) >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(held))
                held = []
            yield sink.take()
        if held:
            writer.write_table(pa.concat_tables(held))
    yield sink.take()


def read_page(page: bytes, schema: pa.Schema) -> pa.Table:
    """PostgreSQL's CSV with the types of the columns; nothing between two commas is NULL, `""` is a text."""
    return pyarrow.csv.read_csv(
        pa.BufferReader(page),
        read_options=pyarrow.csv.ReadOptions(
            column_names=schema.names, block_size=len(page) + 1, use_threads=False
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )


class _Outlet(io.RawIOBase):
    """Where the Parquet writer writes: hands on what came since it was last asked."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)
