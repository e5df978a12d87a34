"""Wide rows of one ship, its tables merged, as a stream of CSV or Parquet.

In: a session on the target and a request. Out: chunks of bytes, about `PAGE_ROWS` rows each, to be written one
after the other. Guarantees: memory is bounded whatever the period; no transaction is open between two chunks,
so a slow reader of the stream holds nothing up; each row is as one snapshot has it.

PostgreSQL joins the tables page by page and makes the text itself: no Python object per cell.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from psycopg import sql

from widetable.dead_cells import created_time_text
from widetable.errors import ConfigurationError
from widetable.layout import MOMENT, UNKNOWN, Layout, WideTable, load_layout
from widetable.postgres import Connection, retryable_errors
from widetable.statements import load_statements
from widetable.verify.cells_sql import moment

SQL: Final = load_statements(files("widetable") / "sql" / "export.sql")
PAGE_ROWS: Final = 500
"""About 5 MB of text where a row has 1,052 channels."""
GROUP_ROWS: Final = 4_000
"""Rows of a Parquet row group: what the writer holds."""
MAX_CHANNELS: Final = 1_600
"""PostgreSQL's limit of a query's columns, with room for created_time."""

Format = Literal["csv", "parquet"]
ARROW_TYPE: Final = {"text": pa.string(), "float8": pa.float64(), "int8": pa.int64(), "bool": pa.bool_()}


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export: moments in microseconds since 1970, half-open; no channels are all of them."""

    ship_id: str
    from_us: int
    until_us: int
    channels: tuple[str, ...] = ()
    format: Format = "csv"


@dataclass(frozen=True, slots=True)
class ExportColumn:
    """A channel on its way out: `alias` is what the queries call its column."""

    channel_id: str
    column: str
    column_type: str
    alias: str


class Export:
    """A request that was found good.

    Attributes:
        rows: wide rows of the period, about: moments that only some tables have make it more.
        overflow: cells of the period that wait in overflow; they are not part of the stream.
        rows_read: how far the stream is.
    """

    def __init__(self, conn: Connection, request: ExportRequest, layout: Layout) -> None:
        self._conn, self.request = conn, request
        self._tables, self.columns = _chosen(layout, request)
        self.rows_read = 0
        with retryable_errors("looking at the period"):
            self.rows = max(self._one("rows", table=table.identifier) for table in self._tables)
            if not any(self._has_values(table, own) for table, own in self._tables.items()):
                raise ConfigurationError(_nothing(request))
            self.overflow = int(
                self._one(
                    "overflow",
                    ship=sql.Literal(request.ship_id),
                    channels=sql.Literal([column.channel_id for column in self.columns])
                    + sql.SQL("::text[]"),
                )
            )

    def chunks(self) -> Iterator[bytes]:
        """The stream; its first chunk is the header.

        Raises:
            RetryableError: an outage; what was written so far is half an export.
        """
        return self._csv() if self.request.format == "csv" else self._parquet()

    def _csv(self) -> Iterator[bytes]:
        header = io.StringIO()
        names = [MOMENT, *(column.channel_id for column in self.columns)]
        header.write(",".join(_quoted(name) for name in names) + "\n")
        yield header.getvalue().encode()
        yield from (page for _, page in self._pages())

    def _parquet(self) -> Iterator[bytes]:
        schema = pa.schema(
            [(MOMENT, pa.timestamp("us")), *((c.channel_id, ARROW_TYPE[c.column_type]) for c in self.columns)]
        )
        sink = _Outlet()
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            held: list[pa.Table] = []
            for _, page in self._pages():
                if page:
                    held.append(_arrow(page, schema))
                if sum(table.num_rows for table in held) >= GROUP_ROWS:
                    writer.write_table(pa.concat_tables(held))
                    held = []
                yield sink.take()
            if held:
                writer.write_table(pa.concat_tables(held))
        yield sink.take()

    def _pages(self) -> Iterator[tuple[int, bytes]]:
        """Moment of the last row and CSV text, page by page."""
        lower = self.request.from_us
        while lower < self.request.until_us:
            with retryable_errors("exporting"), self._conn.transaction():
                # A plan made while a table was empty, or never analysed, would scan it once per page.
                self._conn.execute("SET LOCAL enable_seqscan = off")
                end = self._page_end(lower)
                if end is None:
                    return
                page = self._page(lower, end + 1)
            yield end, page
            lower = end + 1

    def _page_end(self, lower: int) -> int | None:
        parts = {"rows": sql.Literal(PAGE_ROWS), **self._range(lower, self.request.until_us)}
        moments = [sql.SQL(SQL["moments"]).format(table=table.identifier, **parts) for table in self._tables]
        query = sql.SQL(SQL["page_end"]).format(moments=sql.SQL(" UNION ").join(moments), **parts)
        row = self._conn.execute(query).fetchone()
        return None if row is None else row[0]

    def _page(self, lower: int, upper: int) -> bytes:
        bounds = self._range(lower, upper)
        parts = [
            sql.SQL(SQL["part"]).format(
                columns=sql.SQL(", ").join(
                    sql.SQL("{} AS {}").format(sql.Identifier(column.column), sql.Identifier(column.alias))
                    for column in own
                ),
                table=table.identifier,
                alias=sql.Identifier(f"t{number}"),
                **bounds,
            )
            for number, (table, own) in enumerate(self._tables.items())
        ]
        joined = parts[0]
        for part in parts[1:]:
            joined = sql.SQL("{} FULL JOIN {} USING (created_time)").format(joined, part)
        aliases = sql.SQL(", ").join(sql.Identifier(column.alias) for column in self.columns)
        with self._conn.cursor().copy(sql.SQL(SQL["page"]).format(columns=aliases, joined=joined)) as copy:
            lines = [bytes(line) for line in copy]
        self.rows_read += len(lines)
        return b"".join(lines)

    def _has_values(self, table: WideTable, columns: Sequence[ExportColumn]) -> bool:
        names = sql.SQL(", ").join(sql.Identifier(column.column) for column in columns)
        return bool(self._one("any_value", table=table.identifier, columns=names))

    def _one(self, name: str, **parts: sql.Composable) -> Any:
        bounds = self._range(self.request.from_us, self.request.until_us)
        row = self._conn.execute(sql.SQL(SQL[name]).format(**bounds, **parts)).fetchone()
        return row[0] if row else None

    def _range(self, lower: int, upper: int) -> dict[str, sql.Composable]:
        return {"lower": moment(lower), "upper": moment(upper)}


def open_export(conn: Connection, request: ExportRequest) -> Export:
    """Look at a request before anything is written.

    Args:
        conn: an autocommit session on the target that uses the control schema (`check_control`).
        request: what to export.

    Raises:
        ConfigurationError: an unknown ship or channel, an empty range, or no value in the period.
    """
    if request.from_us >= request.until_us:
        raise ConfigurationError(
            f"The period from {created_time_text(request.from_us)} to {created_time_text(request.until_us)}"
            " is empty: its first moment must lie before its end."
        )
    with retryable_errors("reading the layout"):
        layout = load_layout(conn)
    return Export(conn, request, layout)


def export_chunks(conn: Connection, request: ExportRequest) -> Iterator[bytes]:
    """The stream of a request, which is looked at before this returns; raises what `open_export` raises."""
    return open_export(conn, request).chunks()


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


def _chosen(
    layout: Layout, request: ExportRequest
) -> tuple[dict[WideTable, list[ExportColumn]], list[ExportColumn]]:
    """The ship's tables with the chosen columns of each, and these columns in the order asked for."""
    ship = request.ship_id
    tables = [table for (owner, _), table in sorted(layout.tables.items()) if owner == ship]
    if not tables:
        known = sorted({owner for owner, _ in layout.tables})
        raise ConfigurationError(f"No wide tables for ship {ship}. Known ships: {', '.join(known)}.")
    channel_of = {ordinal: channel for channel, ordinal in layout.ordinal.items()}
    columns: dict[str, ExportColumn] = {}
    table_of: dict[str, WideTable] = {}
    for table in tables:
        shape = layout.shapes[table.shape]
        for ordinal, channel in sorted(channel_of.items()):
            if shape.slot[ordinal] != UNKNOWN:
                name = shape.columns[shape.slot[ordinal]]
                columns[channel] = ExportColumn(channel, name, layout.column_type[ordinal], f"c{ordinal}")
                table_of[channel] = table
    wanted = list(dict.fromkeys(request.channels)) or list(columns)
    _refuse_unknown([channel for channel in wanted if channel not in columns], ship, list(columns))
    if len(wanted) > MAX_CHANNELS:
        raise ConfigurationError(
            f"{len(wanted):,} channels are more than one query can have ({MAX_CHANNELS:,}):"
            " choose some with --channels."
        )
    chosen: dict[WideTable, list[ExportColumn]] = {}
    for channel in wanted:
        chosen.setdefault(table_of[channel], []).append(columns[channel])
    return chosen, [columns[channel] for channel in wanted]


def _refuse_unknown(unknown: Sequence[str], ship: str, known: Sequence[str]) -> None:
    if unknown:
        near = [match for channel in unknown for match in get_close_matches(channel, known, n=1)]
        hint = f" Did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
        raise ConfigurationError(
            f"Ship {ship} has no column for channel {', '.join(unknown)}.{hint}"
            " `cdc-consumer schema plan` lists the channels."
        )


def _nothing(request: ExportRequest) -> str:
    of = f" of {', '.join(request.channels[:5])}" if request.channels else ""
    return (
        f"Ship {request.ship_id} has no value{of} from {created_time_text(request.from_us)} to"
        f" {created_time_text(request.until_us)}: nothing was written. Is its history copied"
        " (`backfill status`)?"
    )


def _quoted(name: str) -> str:
    """A field of a CSV header."""
    plain = not any(character in name for character in ',"\r\n')
    return name if plain else '"' + name.replace('"', '""') + '"'


def _arrow(page: bytes, schema: pa.Schema) -> pa.Table:
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
