"""One wide table: its name, its DDL, and how what stands in the database differs from the channel map.

Guarantee: names reach SQL only as `psycopg.sql.Identifier`. A composed statement never has parameters:
psycopg would read a `%` inside a quoted name as a placeholder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from widetable.channel_map import MAX_IDENTIFIER_BYTES
from widetable.postgres import Connection, fetch_one
from widetable.values import ColumnType

PREFIX: Final = "tbl_data_timeseries_"

SQL_TYPE: Final[Mapping[ColumnType, LiteralString]] = {
    "text": "text",
    "float8": "double precision",
    "int8": "bigint",
    "bool": "boolean",
}
"""As `format_type()` prints them."""
FIXED_TYPES: Final = {"created_time": "timestamp without time zone", "_x": "jsonb"}

# A row is written once and hardly ever updated, so pages are filled (fillfactor 100): two rows of 3.5 kB
# share a page, and 80 % would leave it to one. TOAST is kept off what fits the page: by default, PostgreSQL
# moves long texts out of every row above 2 kB, which is nearly every row here.
CREATE: Final = """
CREATE TABLE {table} (
    created_time timestamp PRIMARY KEY,
    _x jsonb{columns}
) WITH (toast_tuple_target = 8160)
"""

COLUMNS: Final = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s::text[])
  AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""
DROPPED: Final = """
SELECT coalesce(max(count), 0) FROM (
    SELECT count(*) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s::text[])
      AND a.attisdropped
    GROUP BY c.oid
) dropped
"""
RECENT_BYTES: Final = """
SELECT coalesce(avg(pg_column_size(recent)), 0)::int
FROM (SELECT * FROM {} ORDER BY created_time DESC LIMIT 100) recent
"""
KEYED: Final = """
SELECT c.relname
FROM pg_class c
JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] AND a.attname = 'created_time'
WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s::text[])
"""
GRANTLESS: Final = """
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s::text[])
  AND NOT has_table_privilege(%s, c.oid, 'SELECT')
ORDER BY c.relname
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A channel's column, as the channel map has it."""

    channel_id: str
    name: str
    column_type: ColumnType
    pending: bool = False  # may not be there yet
    ordinal: int = 0  # under which `_x` keeps the channel's versions


def table_prefix(ship_id: str) -> str:
    """What a ship's tables have in common after `PREFIX`."""
    return ship_id.lower()


def table_name(ship_id: str, suffix: str) -> str:
    """The name of a ship's wide table (`2`), or of a part of it (`2p1`)."""
    return f"{PREFIX}{table_prefix(ship_id)}_{suffix}"


def refuse_ship(ship_id: str, suffixes: Iterable[str], owner_of_prefix: Mapping[str, str]) -> str | None:
    """Why a ship can't have tables; None if it can.

    Args:
        ship_id: the ship as the source calls it.
        suffixes: of the tables it would have.
        owner_of_prefix: the ship that has a table prefix already.
    """
    if not ship_id.strip() or "\0" in ship_id:
        return f"Ship id {ship_id!r} can't name a table."
    owner = owner_of_prefix.get(table_prefix(ship_id), ship_id)
    if owner != ship_id:
        return f"Ships {owner!r} and {ship_id!r} differ in case only and would share their tables."
    names = [table_name(ship_id, suffix) for suffix in suffixes]
    too_long = [name for name in names if len(name.encode()) > MAX_IDENTIFIER_BYTES]
    if too_long:
        return (
            f"Ship id {ship_id!r} is too long: {too_long[0]!r} has {len(too_long[0].encode())} bytes,"
            f" a table's name {MAX_IDENTIFIER_BYTES} at most."
        )
    return None


def ship_problems(
    ship_ids: Iterable[str], suffixes: Collection[str], registered: Iterable[str] = ()
) -> list[str]:
    """Why ships can't have tables of their own, one sentence each: ids that collide or are too long."""
    owner_of_prefix = {table_prefix(ship_id): ship_id for ship_id in registered}
    found = []
    for ship_id in ship_ids:
        if reason := refuse_ship(ship_id, suffixes, owner_of_prefix):
            found.append(reason)
        owner_of_prefix.setdefault(table_prefix(ship_id), ship_id)
    return found


def create_table(schema: str, name: str, columns: Sequence[Column]) -> sql.Composed:
    """CREATE TABLE with one column per channel, in the order given."""
    parts = [sql.SQL(", ") + _definition(column) for column in columns]
    return sql.SQL(CREATE).format(table=sql.Identifier(schema, name), columns=sql.Composed(parts))


def add_columns(schema: str, name: str, columns: Sequence[Column]) -> sql.Composed:
    """ALTER TABLE that appends columns: a change of the catalogue only, no row is rewritten."""
    parts = [sql.SQL("ADD COLUMN ") + _definition(column) for column in columns]
    return sql.SQL("ALTER TABLE {} ").format(sql.Identifier(schema, name)) + sql.SQL(", ").join(parts)


def _definition(column: Column) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(SQL_TYPE[column.column_type]))


def found_columns(conn: Connection, schema: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Table -> column -> type of the tables that exist, columns in physical order."""
    found: dict[str, dict[str, str]] = {}
    for table, column, column_type in conn.execute(COLUMNS, [schema, list(names)]):
        found.setdefault(table, {})[column] = column_type
    return found


def dropped_columns(conn: Connection, schema: str, names: Sequence[str]) -> int:
    """The most dropped columns that one of the tables has; they count against PostgreSQL's limit for ever."""
    return int(fetch_one(conn, DROPPED, schema, list(names))[0])


def recent_row_bytes(conn: Connection, schema: str, name: str) -> int:
    """Average size of a table's last rows; 0 if it has none, or does not exist."""
    if not found_columns(conn, schema, [name]):
        return 0
    row = conn.execute(sql.SQL(RECENT_BYTES).format(sql.Identifier(schema, name))).fetchone()
    return int(row[0]) if row else 0


def keyed_tables(conn: Connection, schema: str, names: Sequence[str]) -> set[str]:
    """The tables whose primary key is `created_time`."""
    return {name for (name,) in conn.execute(KEYED, [schema, list(names)])}


def differences(name: str, columns: Sequence[Column], found: Mapping[str, str]) -> list[str]:
    """How a table's columns differ from the channel map, one sentence each; empty if they don't."""
    wanted = {**FIXED_TYPES, **{column.name: SQL_TYPE[column.column_type] for column in columns}}
    optional = {column.name for column in columns if column.pending}
    missing = [f"{name}: column {column!r} is missing" for column in wanted.keys() - found.keys() - optional]
    extra = [
        f"{name}: column {column!r} is not in the channel map" for column in found.keys() - wanted.keys()
    ]
    other = [
        f"{name}: column {column!r} is {found[column]}, the channel map says {column_type}"
        for column, column_type in wanted.items()
        if column in found and found[column] != column_type
    ]
    return sorted(missing) + sorted(extra) + other
