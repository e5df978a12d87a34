"""Tables that are there already, under the names of wide tables: looked at, and taken over with their data.

In: tables that somebody else made. Out: the channel map that they imply, and the same tables with `_x` and the
columns that they lack. Guarantees: no value is touched; a table that writers could not use as it is, is refused
with the statement that would help; a column is never taken for a channel that neither map nor source knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from widetable.errors import ConfigurationError
from widetable.map_file import SHOWN, MapFile
from widetable.postgres import Connection
from widetable.registry import Registry
from widetable.values import ColumnType
from widetable.wide_table import (
    FIXED_TYPES,
    SQL_TYPE,
    add_columns,
    differences,
    found_columns,
    keyed_tables,
)

MOMENT: Final = "created_time"
TYPE_OF_SQL: Final[Mapping[str, ColumnType]] = {sql_type: name for name, sql_type in SQL_TYPE.items()}

TABLES: Final = """
SELECT c.relname, c.relkind = 'r', c.relpersistence = 'p',
       a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef OR a.attidentity <> ''
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s::text[])
  AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""
# Rows of several kB stay whole, as in the tables that we make.
PREPARE: Final = "ALTER TABLE {} ADD COLUMN IF NOT EXISTS _x jsonb"
STORE: Final = "ALTER TABLE {} SET (toast_tuple_target = 8160)"


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column as it is."""

    name: str
    sql_type: str
    not_null: bool
    has_default: bool


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table with the name of a wide table, and not ours.

    Attributes:
        schema: where it is.
        name: its name.
        table_no: the number of the wide table that has this name.
        is_table: an ordinary table, not a view or a partitioned one.
        is_logged: its rows outlive a crash of the server.
        is_keyed: its primary key is `created_time`.
        columns: in physical order.
    """

    schema: str
    name: str
    table_no: int
    is_table: bool
    is_logged: bool
    is_keyed: bool
    columns: tuple[FoundColumn, ...]

    @property
    def channel_columns(self) -> list[FoundColumn]:
        """All but the key and `_x`."""
        return [column for column in self.columns if column.name not in FIXED_TYPES]


def find_tables(conn: Connection, schema: str, table_nos: Mapping[str, int]) -> tuple[FoundTable, ...]:
    """Those of the named tables (number by name) that exist, whatever they are."""
    columns: dict[str, list[FoundColumn]] = {}
    kinds: dict[str, tuple[bool, bool]] = {}
    for name, is_table, is_logged, *column in conn.execute(TABLES, [schema, list(table_nos)]):
        columns.setdefault(name, []).append(FoundColumn(*column))
        kinds[name] = (is_table, is_logged)
    keyed = keyed_tables(conn, schema, list(columns))
    return tuple(
        FoundTable(schema, name, table_nos[name], *kinds[name], name in keyed, tuple(found))
        for name, found in columns.items()
    )


# -- what they imply --------------------------------------------------------------------------------------------


def adopted_map(found: Sequence[FoundTable], given: MapFile, known: Collection[str]) -> MapFile:
    """The channel map with tables, columns and types as found.

    Args:
        found: tables to take over.
        given: what lists, map and registry say.
        known: channels that the source has.

    Raises:
        ConfigurationError: tables can't be taken over as they are; each with what to do.
    """
    reading = _Reading(given, known)
    problems = [problem for table in found for problem in (*_unfit(table), *reading.read(table))]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        rest = f"\n  and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise ConfigurationError(
            f"These tables can't be adopted as they are:{shown}{rest}\nNothing was changed in them."
        )
    return reading.result()


def _unfit(table: FoundTable) -> Iterator[str]:
    """Why writers could not use a table."""
    if not table.is_table:
        yield f"{table.schema}.{table.name} is no ordinary table: rename it, and let `schema apply` make one."
        return
    if not table.is_logged:
        # The ledger would say that rows are there which a crash of the server has emptied.
        yield _advice(table, "it is UNLOGGED", "SET LOGGED", MOMENT)
    types = {column.name: column.sql_type for column in table.columns}
    for name, sql_type in FIXED_TYPES.items():
        if types.get(name, sql_type) != sql_type:
            yield _advice(table, f"{name} is {types[name]}", "ALTER COLUMN {} TYPE " + sql_type, name)
    if MOMENT not in types:
        yield f"{table.schema}.{table.name} has no column {MOMENT}: rename the table; it is no wide table."
    elif not table.is_keyed:
        yield _advice(table, f"{MOMENT} is not its primary key", "ADD PRIMARY KEY ({})", MOMENT)
    yield from _unfit_columns(table)


def _unfit_columns(table: FoundTable) -> Iterator[str]:
    for column in table.channel_columns:
        if column.sql_type not in TYPE_OF_SQL:
            what = f"column {column.name!r} is {column.sql_type}, which no channel can be"
            yield _advice(table, what, "ALTER COLUMN {} TYPE text", column.name)
        if column.not_null:
            what = f"column {column.name!r} is NOT NULL"
            yield _advice(table, what, "ALTER COLUMN {} DROP NOT NULL", column.name)
        if column.has_default:
            what = f"column {column.name!r} has a default"
            yield _advice(table, what, "ALTER COLUMN {} DROP DEFAULT", column.name)


def _advice(table: FoundTable, what: str, statement: str, column: str) -> str:
    name = sql.Identifier(table.schema, table.name).as_string()
    action = statement.format(sql.Identifier(column).as_string())
    return f"{table.schema}.{table.name}: {what}: ALTER TABLE {name} {action};"


class _Reading:
    """Finds the channel of each column, table by table."""

    def __init__(self, given: MapFile, known: Collection[str]) -> None:
        self._given = given
        self._known = known
        self._listed = {channel: part.table_no for part in given.lists for channel in part.channel_ids}
        self._owner: dict[str, list[str]] = {}  # by column
        for channel in self._listed:
            self._owner.setdefault(given.columns.get(channel, channel), []).append(channel)
        self._place: dict[str, FoundTable] = {}
        self._columns: dict[str, str] = {}
        self._types: dict[str, ColumnType] = {}

    def read(self, table: FoundTable) -> Iterator[str]:
        """Take a table's columns for channels; yields what stands against it."""
        where = f"{table.schema}.{table.name}"
        for column in table.channel_columns if table.is_table else ():
            channel = self._channel(table, column.name)
            if channel is None:
                yield (
                    f"{where}: column {column.name!r} is no channel that lists, map or source know: give it a"
                    " channel in a map (--map), or drop it."
                )
            elif column.sql_type in TYPE_OF_SQL:
                yield from self._take(table, column, channel)

    def _channel(self, table: FoundTable, column: str) -> str | None:
        owners = self._owner.get(column, [])
        at_home = [channel for channel in owners if self._listed[channel] == table.table_no]
        if at_home or owners:
            return (at_home or owners)[0]
        return column if column in self._known else None

    def _take(self, table: FoundTable, column: FoundColumn, channel: str) -> Iterator[str]:
        where, column_type = f"{table.schema}.{table.name}", TYPE_OF_SQL[column.sql_type]
        other = self._place.setdefault(channel, table)
        if other.table_no != table.table_no:
            yield f"{where}: channel {channel!r} has a column in {other.name}, too: drop one of them."
            return
        wanted = self._given.types.get(channel) or self._types.get(channel, column_type)
        if wanted != column_type:
            what = f"column {column.name!r} is {column.sql_type}, elsewhere {SQL_TYPE[wanted]}"
            yield _advice(table, what, f"ALTER COLUMN {{}} TYPE {SQL_TYPE[wanted]}", column.name)
        self._columns[channel], self._types[channel] = column.name, column_type

    def result(self) -> MapFile:
        """The given map, and on top of it what was found."""
        place = {channel: table.table_no for channel, table in self._place.items()}
        lists = [
            replace(
                part,
                channel_ids=(
                    *(channel for channel, number in place.items() if number == part.table_no),
                    *(channel for channel in part.channel_ids if channel not in place),
                ),
            )
            for part in self._given.lists
        ]
        columns = {**self._given.columns, **self._columns}
        return MapFile(tuple(lists), columns, {**self._given.types, **self._types})


# -- taking over ------------------------------------------------------------------------------------------------


def adopt_table(conn: Connection, registry: Registry, name: str, table_no: int) -> None:
    """Give a table what it lacks to be ours, in the caller's layout change.

    Raises:
        ConfigurationError: it is not as it was looked at.
    """
    columns = registry.columns[table_no]
    table = sql.Identifier(registry.wide_schema, name)
    conn.execute(sql.SQL(PREPARE).format(table))
    conn.execute(sql.SQL(STORE).format(table))
    there = found_columns(conn, registry.wide_schema, [name])[name]
    if lacking := [column for column in columns if column.name not in there]:
        conn.execute(add_columns(registry.wide_schema, name, lacking))
    there = found_columns(conn, registry.wide_schema, [name])[name]
    if wrong := differences(name, columns, there):
        raise ConfigurationError(
            f"{name} was changed while it was looked at: {'; '.join(wrong[:5])}. Run the command again."
        )
