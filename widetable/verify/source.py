"""The source's side: sums, values and row versions of the narrow table; one snapshot per statement."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from widetable.errors import ConfigurationError
from widetable.lsn import parse_lsn
from widetable.postgres import Connection, fetch_one, retryable_errors
from widetable.values import value_sql
from widetable.verify import cells_sql
from widetable.verify.cells_sql import Sum
from widetable.verify.scope import Cell, Span

# Found by the primary key; the version tells whether a row was touched in between, also where an update put
# the same value back.
READ_CELLS: Final = f"""
SELECT w.ship_id, w.moment_us, w.channel_id, {value_sql("n")}, concat_ws(' ', n.tableoid, n.ctid, n.xmin)
FROM unnest(%s::text[], %s::int8[], %s::text[]) w (ship_id, moment_us, channel_id)
JOIN {{table}} n ON n.ship_id = w.ship_id AND n.data_channel_id = w.channel_id
 AND n.created_time = timestamp 'epoch' + (w.moment_us || ' microseconds')::interval
"""


CANCEL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums by (ship, start of bucket in microseconds), and each ship's newest moment in microseconds."""

    buckets: dict[tuple[str, int], Sum]
    newest_us: dict[str, int]


class Sourced(NamedTuple):
    """A cell's source row: the value (None: a NULL cell) and the version of the row."""

    value: str | None
    version: str


class Source:
    """Reads the narrow table; the statements of one instance run one after the other, from any thread.

    Args:
        conn: a session in autocommit, with text settings pinned (`widetable.postgres.connect_source`).
        table: the narrow table, schema.table.

    Raises:
        ConfigurationError: there is no such table, or the role may not read it.
    """

    def __init__(self, conn: Connection, table: str) -> None:
        self._conn = conn
        self._name = table
        self._table = sql.Identifier(*table.split(".", 1))
        self._conn.execute("SET jit = off")  # compiling takes longer than the query
        self.estimate(Span(), None)  # planning alone finds what is missing, rights included

    def refuse_standby(self) -> None:
        """Refuse a standby: its rows may be older than what the target holds by now.

        Raises:
            ConfigurationError: the session's server is in recovery.
        """
        if fetch_one(self._conn, "SELECT pg_is_in_recovery()")[0]:
            raise ConfigurationError(
                "The source is a standby, which may lag behind the target: let CDC_SOURCE__DSN name the"
                " primary, or compare at rest with --no-settle."
            )

    def lsn(self) -> int:
        """Where the WAL ends by now: past every commit that earlier reads of this session have seen."""
        with self._reading():
            return parse_lsn(fetch_one(self._conn, "SELECT pg_current_wal_insert_lsn()::text")[0])

    def extent(self) -> Span | None:
        """From the oldest moment to just past the newest; None for an empty table."""
        row = self._row(
            sql.SQL("SELECT {}, {} + 1 FROM {} WHERE {}").format(
                sql.SQL(cells_sql.MOMENT_US).format(sql.SQL("min(created_time)")),
                sql.SQL(cells_sql.MOMENT_US).format(sql.SQL("max(created_time)")),
                self._table,
                cells_sql.in_span(Span()),
            )
        )
        return None if row[0] is None else Span(row[0], row[1])

    def has_ship(self, ship: str) -> bool:
        """Whether the ship ever sent a sample."""
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE ship_id = {})")
        return bool(self._row(query.format(self._table, sql.Literal(ship)))[0])

    def estimate(self, span: Span, ships: Collection[str] | None) -> int:
        """About how many rows lie in the span, as the planner sees it; nothing is read."""
        cells = cells_sql.source_cells(self._table, cells_sql.in_span(span), ships)
        plan = self._row(sql.SQL("EXPLAIN (FORMAT JSON) ") + cells)[0]
        return int(plan[0]["Plan"]["Plan Rows"])

    def sums(self, span: Span, bucket_us: int, ships: Collection[str] | None) -> Sums:
        """Hash all cells of the span in one pass, grouped by ship and bucket."""
        cells = cells_sql.source_cells(self._table, cells_sql.in_span(span), ships)
        buckets: dict[tuple[str, int], Sum] = {}
        newest: dict[str, int] = {}
        with self._reading():
            for ship, start, count, hash_sum, last in self._conn.execute(cells_sql.sums(cells, bucket_us)):
                buckets[ship, start] = Sum(count, int(hash_sum))
                newest[ship] = max(last, newest.get(ship, last))
        return Sums(buckets, newest)

    def cells(self, ship: str, moments: Collection[int]) -> dict[Cell, str]:
        """The values of a ship's cells at these moments."""
        where = cells_sql.at_moments(moments)
        cells = cells_sql.source_cells(self._table, where, [ship])
        moment_us = sql.SQL(cells_sql.MOMENT_US).format(sql.SQL("created_time"))
        query = sql.SQL("SELECT {}, channel_id, value FROM ({}) cell WHERE value IS NOT NULL")
        with self._reading():
            rows = self._conn.execute(query.format(moment_us, cells)).fetchall()
        return {Cell(ship, us, channel): value for us, channel, value in rows}

    def read(self, cells: Collection[Cell]) -> dict[Cell, Sourced]:
        """The rows of these cells, in one snapshot; cells without a row are left out."""
        columns = [list(column) for column in zip(*cells, strict=True)] or [[], [], []]
        query = sql.SQL(READ_CELLS).format(table=self._table)
        with self._reading():
            rows = self._conn.execute(query, columns).fetchall()
        return {Cell(*row[:3]): Sourced(*row[3:]) for row in rows}

    def cancel(self) -> None:
        """End the statement that runs in another thread, if there is one and the server still answers."""
        with suppress(psycopg.Error):
            self._conn.cancel_safe(timeout=CANCEL_S)

    def _row(self, query: sql.Composed) -> tuple[Any, ...]:
        with self._reading():
            return self._conn.execute(query).fetchall()[0]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with retryable_errors("reading the source"):
                yield
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise ConfigurationError(
                f"{self._name} is not the narrow table of the source ({error.diag.message_primary}):"
                " check CDC_SOURCE__TABLE and CDC_SOURCE__DSN."
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"The source role may not read {self._name}: grant it SELECT, and USAGE on the schema."
            ) from error
