"""The target's side: wide cells and overflow, one snapshot per statement, with the channel map as it is then.

The map is read here again rather than taken from the writer's layout, and so are the columns that exist: what
the writer believes is what verify doubts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, NamedTuple

from psycopg import sql

from widetable.dead_cells import created_time_text
from widetable.errors import ConfigurationError
from widetable.postgres import Connection, fetch_one, retryable_errors
from widetable.verify import cells_sql
from widetable.verify.cells_sql import Column, Sum, WideTable
from widetable.verify.scope import Cell, Span

TABLES: Final = """
SELECT s.ship_id, r.relname::text, array_agg(c.channel_id ORDER BY c.ordinal),
       array_agg(c.column_name ORDER BY c.ordinal), array_agg(c.ordinal ORDER BY c.ordinal)
FROM ship s CROSS JOIN channel c JOIN system y USING (table_no)
JOIN pg_class r ON r.relname = 'tbl_data_timeseries_' || s.table_prefix || '_' || y.suffix
 AND r.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = c.column_name AND NOT a.attisdropped
GROUP BY s.ship_id, r.relname
"""

# Overflow may be large while a ship waits for its tables: hop from ship to ship along the primary key.
OVERFLOW_SHIPS: Final = """
WITH RECURSIVE hop AS (
    (SELECT ship_id FROM overflow_cell ORDER BY ship_id LIMIT 1)
    UNION ALL
    SELECT (SELECT o.ship_id FROM overflow_cell o WHERE o.ship_id > h.ship_id ORDER BY o.ship_id LIMIT 1)
    FROM hop h WHERE h.ship_id IS NOT NULL
)
SELECT ship_id FROM hop WHERE ship_id IS NOT NULL
"""

DEAD_CELLS: Final = """
SELECT DISTINCT d.ship_id, w.moment_us, d.channel_id
FROM unnest(%s::text[], %s::int8[], %s::text[], %s::text[]) w (ship_id, moment_us, channel_id, created_time)
JOIN dead_cell d USING (ship_id, channel_id, created_time)
"""


class Held(NamedTuple):
    """What the target holds of a cell: its value, and the kind of its recorded version."""

    value: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the deployment chose: keep deleted values; compare ships that the target does not know."""

    ignore_deletes: bool
    new_ships: bool


class Target:
    """Reads wide tables, overflow and dead cells.

    Args:
        conn: a session in autocommit, control schema on its search path (`widetable.control.check_control`).
        control_schema: that schema.

    Raises:
        ConfigurationError: the target has no layout yet.
    """

    def __init__(self, conn: Connection, control_schema: str) -> None:
        self._conn = conn
        self._control = sql.Identifier(control_schema)
        with self._reading():
            row = conn.execute(
                "SELECT wide_schema, deletes = 'ignore', new_ships = 'auto' FROM layout"
            ).fetchone()
        if row is None:
            raise ConfigurationError(
                "The target has no wide tables yet: run `cdc-consumer schema apply` first."
            )
        self._wide_schema = str(row[0])
        self._version: int | None = None
        self._tables: dict[str, list[WideTable]] = {}
        self.policy = Policy(ignore_deletes=row[1], new_ships=row[2])

    def ships(self) -> set[str]:
        """Ships that the target knows: chosen ones, and those of which overflow holds cells."""
        with self._reading():
            known = self._conn.execute(f"SELECT ship_id FROM ship UNION ({OVERFLOW_SHIPS})").fetchall()
        return {ship for (ship,) in known}

    def sums(self, span: Span, bucket_us: int, ships: Iterable[str]) -> dict[tuple[str, int], Sum]:
        """Hash the ships' cells in the span, one statement and snapshot per ship, by ship and bucket."""
        found: dict[tuple[str, int], Sum] = {}
        where = cells_sql.in_span(span)
        with self._reading():
            tables = self._current_tables()
            for ship in ships:
                cells = cells_sql.target_cells(self._control, ship, tables.get(ship, ()), where)
                for _, start_us, count, hash_sum, _ in self._conn.execute(cells_sql.sums(cells, bucket_us)):
                    found[ship, start_us] = Sum(count, int(hash_sum))
        return found

    def cells(
        self, ship: str, moments: Collection[int], channels: Collection[str] | None = None
    ) -> dict[Cell, Held]:
        """A ship's cells at these moments: those with a value, and those that are NULL by a version.

        Args:
            ship: the ship.
            moments: at least one.
            channels: look at these channels only.
        """
        query = sql.SQL("SELECT {}, channel_id, value, kind FROM ({}) cell")
        moment_us = sql.SQL(cells_sql.MOMENT_US).format(sql.SQL("created_time"))
        with self._reading():
            cells = cells_sql.target_cells(
                self._control,
                ship,
                _only(self._current_tables().get(ship, ()), channels),
                cells_sql.at_moments(moments),
                channels=channels,
                kinds=True,
            )
            rows = self._conn.execute(query.format(moment_us, cells)).fetchall()
        return {Cell(ship, us, channel): Held(value, kind) for us, channel, value, kind in rows}

    def dead(self, cells: Collection[Cell]) -> set[Cell]:
        """Those of the cells (at least one) of which a value is recorded as dead."""
        spelled = [(*cell, created_time_text(cell.moment_us)) for cell in cells]
        columns = [list(column) for column in zip(*spelled, strict=True)]
        with self._reading():
            rows = self._conn.execute(DEAD_CELLS, columns).fetchall()
        return {Cell(*row) for row in rows}

    def overflow_pending(self, span: Span, ships: Collection[str]) -> int:
        """How many cells of these ships still wait in overflow."""
        query = sql.SQL("SELECT count(*) FROM overflow_cell WHERE ship_id = ANY ({}) AND {}")
        with self._reading():
            row = self._conn.execute(
                query.format(sql.Literal(list(ships)) + sql.SQL("::text[]"), cells_sql.in_span(span))
            ).fetchone()
        return int(row[0]) if row else 0

    def _current_tables(self) -> dict[str, list[WideTable]]:
        """Each ship's tables, read again when the layout has changed."""
        version = fetch_one(self._conn, "SELECT version FROM layout")[0]
        if version != self._version:
            self._tables = {}
            for ship, name, *columns in self._conn.execute(TABLES, [self._wide_schema]):
                table = WideTable(sql.Identifier(self._wide_schema, name), tuple(map(Column, *columns)))
                self._tables.setdefault(ship, []).append(table)
            self._version = version
        return self._tables

    def _reading(self) -> AbstractContextManager[None]:
        return retryable_errors("reading the target")


def _only(tables: Sequence[WideTable], channels: Collection[str] | None) -> Sequence[WideTable]:
    """The tables with the columns of these channels."""
    if channels is None:
        return tables
    kept = [
        WideTable(name, tuple(column for column in columns if column.channel_id in channels))
        for name, columns in tables
    ]
    return [table for table in kept if table.columns]
