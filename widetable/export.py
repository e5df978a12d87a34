"""Wide rows of one ship, its tables merged, as a stream of CSV or Parquet.

In: a session on the target and a request. Out: chunks of bytes, about `PAGE_ROWS` rows each, to be written one
after the other. Guarantees: memory is bounded whatever the period; no transaction is open between two chunks,
so a slow reader of the stream holds nothing up; each row is as one snapshot has it.

PostgreSQL joins the tables page by page and makes the text itself: no Python object per cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from itertools import islice
from typing import Any, Final, Literal

import pyarrow as pa
from psycopg import sql

from widetable.dead_cells import created_time_text
from widetable.errors import NotFoundError, RequestError
from widetable.layout import MOMENT, UNKNOWN, Layout, WideTable, load_layout
from widetable.parquet import parquet, read_page
from widetable.postgres import Connection, retryable_errors
from widetable.statements import load_statements
from widetable.verify.cells_sql import moment

SQL: Final = load_statements(files("widetable") / "sql" / "export.sql")
PAGE_ROWS: Final = 500
"""About 5 MB of text where a row has 1,052 channels."""
FIRST_PAGE_ROWS: Final = 50
FIRST_PAGES: Final = 20
"""A look at the first rows is worth so many pages."""
SHOWN: Final = 5
"""Channels that a message names."""
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
                raise NotFoundError(_nothing(request))
            self.overflow = int(
                self._one(
                    "overflow",
                    ship=sql.Literal(request.ship_id),
                    channels=sql.Literal([column.channel_id for column in self.columns])
                    + sql.SQL("::text[]"),
                )
            )

    def chunks(self) -> Iterator[bytes]:
        """The stream; its first chunk is the header, and a chunk may be empty.

        Raises:
            RetryableError: an outage; what was written so far is half an export.
        """
        pages = self._pages(PAGE_ROWS)
        return self._csv(pages) if self.request.format == "csv" else parquet(self._schema(), pages)

    def first_rows(self, rows: int, columns: int) -> list[list[str | None]]:
        """The first rows and columns of the stream as texts, None for no value.

        Only so many moments are looked at that the answer comes soon: there may be none among them.
        """
        texts = pa.schema([(name, pa.string()) for name in self._schema().names])
        found: list[list[str | None]] = []
        for page in islice(self._pages(FIRST_PAGE_ROWS), FIRST_PAGES):
            if page:
                chosen = read_page(page, texts).columns[:columns]
                found += map(list, zip(*(column.to_pylist() for column in chosen), strict=True))
            if len(found) >= rows:
                break
        return found[:rows]

    def _schema(self) -> pa.Schema:
        types = [(column.channel_id, ARROW_TYPE[column.column_type]) for column in self.columns]
        return pa.schema([(MOMENT, pa.timestamp("us")), *types])

    def _csv(self, pages: Iterator[bytes]) -> Iterator[bytes]:
        names = [MOMENT, *(column.channel_id for column in self.columns)]
        yield (",".join(_quoted(name) for name in names) + "\n").encode()
        yield from pages

    def _pages(self, size: int) -> Iterator[bytes]:
        """CSV text of so many moments at a time; empty where none of them has a value."""
        lower = self.request.from_us
        while lower < self.request.until_us:
            with retryable_errors("exporting"), self._conn.transaction():
                # A plan made while a table was empty, or never analysed, would scan it once per page.
                self._conn.execute("SET LOCAL enable_seqscan = off")
                end = self._page_end(lower, size)
                if end is None:
                    return
                page = self._page(lower, end + 1)
            yield page
            lower = end + 1

    def _page_end(self, lower: int, size: int) -> int | None:
        parts = {"rows": sql.Literal(size), **self._range(lower, self.request.until_us)}
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
        RequestError: an empty range, too many channels; `NotFoundError`: an unknown ship or channel, or no value
            in the period.
    """
    if request.from_us >= request.until_us:
        raise RequestError(
            f"The period from {created_time_text(request.from_us)} to {created_time_text(request.until_us)}"
            " is empty: its first moment must lie before its end."
        )
    with retryable_errors("reading the layout"):
        layout = load_layout(conn)
    return Export(conn, request, layout)


def listed_channels(texts: Iterable[str]) -> tuple[str, ...]:
    """Channels as a person lists them: separated by commas, in one text or several."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


def export_chunks(conn: Connection, request: ExportRequest) -> Iterator[bytes]:
    """The stream of a request, which is looked at before this returns; raises what `open_export` raises."""
    return open_export(conn, request).chunks()


def _chosen(
    layout: Layout, request: ExportRequest
) -> tuple[dict[WideTable, list[ExportColumn]], list[ExportColumn]]:
    """The ship's tables with the chosen columns of each, and these columns in the order asked for."""
    ship = request.ship_id
    tables = [table for (owner, _), table in sorted(layout.tables.items()) if owner == ship]
    if not tables:
        known = sorted({owner for owner, _ in layout.tables})
        raise NotFoundError(f"No wide tables for ship {ship}. Known ships: {', '.join(known)}.")
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
        raise RequestError(
            f"{len(wanted):,} channels are more than one query can have ({MAX_CHANNELS:,}): choose some of them."
        )
    chosen: dict[WideTable, list[ExportColumn]] = {}
    for channel in wanted:
        chosen.setdefault(table_of[channel], []).append(columns[channel])
    return chosen, [columns[channel] for channel in wanted]


def _refuse_unknown(unknown: Sequence[str], ship: str, known: Sequence[str]) -> None:
    if unknown:
        named = unknown[:SHOWN]  # to look for what is near takes a while
        near = [match for channel in named for match in get_close_matches(channel, known, n=1)]
        hint = f" Did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
        more = f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
        raise NotFoundError(
            f"Ship {ship} has no column for channel {', '.join(named)}{more}.{hint}"
            " `cdc-consumer schema plan` lists the channels."
        )


def _nothing(request: ExportRequest) -> str:
    of = f" of {', '.join(request.channels[:SHOWN])}" if request.channels else ""
    return (
        f"Ship {request.ship_id} has no value{of} from {created_time_text(request.from_us)} to"
        f" {created_time_text(request.until_us)}: nothing was written. Is its history copied"
        " (`backfill status`)?"
    )


def _quoted(name: str) -> str:
    """A field of a CSV header."""
    plain = not any(character in name for character in ',"\r\n')
    return name if plain else '"' + name.replace('"', '""') + '"'
