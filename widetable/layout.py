"""The layout that a writer works by: channels, ships, and the wide tables as they physically are.

Read once per session and whenever `layout.version` has moved. COPY without a column list needs the exact
physical order of the columns, so that order is read from `pg_attribute`, never assumed; tables with the same
order share a `Shape`, and with it one staging table and one pivot.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from psycopg import sql

from widetable.cells import BoolArray, IntArray
from widetable.errors import ConfigurationError
from widetable.postgres import Connection, fetch_one
from widetable.statements import load_statements

MOMENT: Final = "created_time"
VERSIONS: Final = "_x"
UNKNOWN: Final = -1
SQL: Final = load_statements(files("widetable") / "sql" / "layout.sql")


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """The physical columns of wide tables that look alike; `slot[ordinal]` is a channel's column position."""

    number: int
    columns: tuple[str, ...]
    slot: IntArray  # by channel ordinal; UNKNOWN where the channel has no column here
    moment_slot: int
    versions_slot: int

    @property
    def channel_columns(self) -> list[tuple[str, int]]:
        """(column name, channel ordinal) of every channel column, in physical order."""
        return self.columns_of(np.flatnonzero(self.slot != UNKNOWN))

    def columns_of(self, ordinals: IntArray) -> list[tuple[str, int]]:
        """(column name, channel ordinal) of these channels, in physical order."""
        ordered = ordinals[np.argsort(self.slot[ordinals])]
        return [(self.columns[self.slot[ordinal]], int(ordinal)) for ordinal in ordered]


@dataclass(frozen=True, slots=True)
class WideTable:
    """One physical wide table."""

    schema: str
    name: str
    ship_id: str
    table_no: int
    shape: int
    oid: int
    attributes: int  # pg_class.relnatts: rises with any ADD COLUMN, also one done by hand

    @property
    def identifier(self) -> sql.Identifier:
        """Schema-qualified name, quoted."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Everything a writer needs to know about the target's tables, at one `version`."""

    version: int
    typed: bool
    ignore_deletes: bool
    ordinal: dict[str, int]  # live channels only
    pending: frozenset[str]  # channels that are known but not drained yet
    table_no: npt.NDArray[np.int32]  # by ordinal
    column_type: tuple[str, ...]  # by ordinal
    tables: dict[tuple[str, int], WideTable]  # by (ship, table number), ships that are live
    shapes: tuple[Shape, ...]

    def ordinals(self, channels: tuple[str, ...]) -> IntArray:
        """The ordinal of each channel, `UNKNOWN` where it has no live column."""
        return np.array([self.ordinal.get(channel, UNKNOWN) for channel in channels], np.int64)

    def has_ship(self, ships: tuple[str, ...]) -> BoolArray:
        """Which ships have wide tables."""
        live = {ship for ship, _ in self.tables}
        return np.array([ship in live for ship in ships], bool)


def load_layout(conn: Connection) -> Layout:
    """Read the layout from the control schema and `pg_attribute`.

    Raises:
        ConfigurationError: no layout yet, or a table is missing or lacks a column that the channel map names.
    """
    row = conn.execute(SQL["layout"]).fetchone()
    if row is None:
        raise ConfigurationError("The target has no wide tables yet: run `cdc-consumer schema apply` first.")
    version, typed, ignore_deletes, schema = row
    channels = conn.execute(SQL["channels"]).fetchall()
    size = max((ordinal for _, ordinal, *_ in channels), default=0) + 1
    table_no, column_type = np.zeros(size, np.int32), ["text"] * size
    for _, ordinal, number, _, kind, _ in channels:
        table_no[ordinal], column_type[ordinal] = number, kind
    tables, shapes = _read_tables(conn, schema, channels, size)
    return Layout(
        version=version,
        typed=typed,
        ignore_deletes=ignore_deletes,
        ordinal={channel: ordinal for channel, ordinal, *_, state in channels if state == "live"},
        pending=frozenset(channel for channel, *_, state in channels if state == "pending"),
        table_no=table_no,
        column_type=tuple(column_type),
        tables=tables,
        shapes=shapes,
    )


def layout_change_since(conn: Connection, layout: Layout) -> str | None:
    """What moved since the layout was read, None if nothing; asked in every transaction that writes wide rows.

    The version tells of our own changes, the number of columns that the tables ever had of those made by hand.
    """
    tables = layout.tables.values()
    version, attributes = fetch_one(conn, SQL["current"], [table.oid for table in tables])
    if version != layout.version:
        return f"layout version is {version} now, was {layout.version}"
    if attributes != sum(table.attributes for table in tables):
        return "a wide table was altered or replaced by hand"
    return None


def _read_tables(
    conn: Connection, schema: str, channels: list[tuple[Any, ...]], size: int
) -> tuple[dict[tuple[str, int], WideTable], tuple[Shape, ...]]:
    shapes: dict[tuple[str, ...], Shape] = {}
    tables: dict[tuple[str, int], WideTable] = {}
    for ship_id, number, name, oid, attributes, columns in conn.execute(SQL["tables"], [schema]):
        if columns is None:
            raise ConfigurationError(
                f"Wide table {schema}.{name} is missing: run `cdc-consumer schema apply` to create it."
            )
        key = (str(number), *columns)
        if key not in shapes:
            shapes[key] = _shape(len(shapes), f"{schema}.{name}", tuple(columns), number, channels, size)
        shape = shapes[key].number
        tables[ship_id, number] = WideTable(schema, name, ship_id, number, shape, oid, attributes)
    return tables, tuple(shapes.values())


def _shape(
    number: int,
    table: str,
    columns: tuple[str, ...],
    table_no: int,
    channels: list[tuple[Any, ...]],
    size: int,
) -> Shape:
    position = {column: i for i, column in enumerate(columns)}
    slot = np.full(size, UNKNOWN, np.int64)
    for channel, ordinal, channel_table, column, _, state in channels:
        if channel_table == table_no and column in position:
            slot[ordinal] = position[column]
        elif channel_table == table_no and state == "live":
            raise ConfigurationError(
                f"{table} has no column {column!r} for channel {channel!r}, which the channel map calls live:"
                " add the column again, or run `cdc-consumer schema apply`."
            )
    for column in (MOMENT, VERSIONS):
        if column not in position:
            raise ConfigurationError(f"{table} has no column {column!r}: it was not made by `schema apply`.")
    return Shape(number, columns, slot, position[MOMENT], position[VERSIONS])
