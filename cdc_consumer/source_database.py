"""The source database as it is: server, role, narrow table, publication; and what is wrong with it.

In: a connection. Out: dataclasses of facts, and problems as sentences that say what to do. `init` refuses
on the first problem, `check` lists them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from widetable.postgres import Connection
from widetable.statements import load_statements

SQL: Final = load_statements(files("cdc_consumer") / "sql" / "source.sql")

PRIMARY_KEY: Final = ["ship_id", "data_channel_id", "created_time"]
TEXT: Final = frozenset({"text", "character varying"})
COLUMN_TYPES: Final[dict[str, frozenset[str]]] = {
    "ship_id": TEXT,
    "data_channel_id": TEXT,
    "created_time": frozenset({"timestamp without time zone"}),
    "bool_v": frozenset({"boolean"}),
    "str_v": TEXT,
    "long_v": frozenset({"bigint"}),
    "double_v": frozenset({"double precision"}),
    "value_format": TEXT,
}
DEFAULT_OR_FULL: Final = frozenset({"d", "f"})
ROW = TypeVar("ROW")


@dataclass(frozen=True, slots=True)
class Server:
    """What logical replication depends on; `wal_budget` is in bytes, negative when there is no limit."""

    wal_level: str
    version: int
    standby: bool
    free_slots: int
    free_senders: int
    wal_budget: int

    def problem(self) -> str | None:
        """Why no change stream can come from this server, and what to do."""
        if self.standby:
            return "the source is a standby: point CDC_SOURCE__DSN at the primary"
        if self.wal_level != "logical":
            return (
                f"the source's wal_level is {self.wal_level}, change data capture needs logical:"
                " ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL"
            )
        return None


@dataclass(frozen=True, slots=True)
class Role:
    """What the connected role may do."""

    rolname: str
    may_replicate: bool
    may_create: bool
    sees_sessions: bool


@dataclass(frozen=True, slots=True)
class NarrowTable:
    """The narrow table's shape; `replica_identities` are those of the table or of all its partitions."""

    oid: int
    relkind: str
    owned: bool
    readable: bool
    replica_identities: list[str]
    primary_key: list[str]
    column_types: dict[str, str]

    def problems(self, table: str) -> Iterator[str]:
        """What keeps its changes from becoming wide rows."""
        if not DEFAULT_OR_FULL.issuperset(self.replica_identities):
            yield (
                f"{table} has a REPLICA IDENTITY that hides keys of updates and deletes:"
                f" ALTER TABLE {table} REPLICA IDENTITY DEFAULT (on each partition, if it has any)"
            )
        if self.primary_key != PRIMARY_KEY:
            found = ", ".join(self.primary_key) or "none"
            yield f"{table} must have the primary key ({', '.join(PRIMARY_KEY)}), it has: {found}"
        for column, allowed in COLUMN_TYPES.items():
            present = self.column_types.get(column)
            if present not in allowed:
                wanted = " or ".join(sorted(allowed))
                yield f"{table}.{column} must be {wanted}, it is {present or 'missing'}"


@dataclass(frozen=True, slots=True)
class Publication:
    """What a publication publishes; `tables` are names as schema.table."""

    puballtables: bool
    pubviaroot: bool
    publishes_all: bool
    tables: list[str]
    filtered: bool

    def problems(self, name: str, wanted: list[str]) -> Iterator[str]:
        """Which changes it would keep from the stream."""
        if missing := [table for table in wanted if table not in self.tables]:
            yield f"publication {name} lacks {', '.join(missing)}"
        if not self.publishes_all:
            yield f"publication {name} does not publish all of insert, update, delete, truncate"
        if not self.pubviaroot:
            yield f"publication {name} names partitions instead of their table"
        if self.filtered:
            yield f"publication {name} has a row filter"


def server(conn: Connection) -> Server:
    """The server's replication settings."""
    return _one(conn, Server, "server")


def role(conn: Connection) -> Role:
    """The connected role's rights."""
    return _one(conn, Role, "role")


def narrow_table(conn: Connection, table: str) -> NarrowTable | None:
    """The narrow table, or None when there is no such table."""
    return _first(conn, NarrowTable, "table", {"table": _quoted(table)})


def publication(conn: Connection, name: str) -> Publication | None:
    """The publication, or None when there is none of that name."""
    return _first(conn, Publication, "publication", {"publication": name})


def publishers(conn: Connection, table: str) -> list[str]:
    """The publications that name the table."""
    return [row[0] for row in conn.execute(SQL["publishers"], {"table": _quoted(table)}).fetchall()]


def blockers(conn: Connection) -> list[str]:
    """The oldest open transactions with a transaction id, prepared ones included, as text for a person."""
    return [row[0] for row in conn.execute(SQL["blockers"], {}).fetchall()]


def heartbeat_age_s(conn: Connection, heartbeat_table: str) -> float | None:
    """Seconds since the heartbeat was last moved, by the server's clock; None without a table or row."""
    query = sql.SQL(SQL["heartbeat_age"]).format(table=sql.Identifier(*heartbeat_table.split(".")))
    try:
        row = conn.execute(query).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return None if row is None else row[0]


def _quoted(table: str) -> str:
    return sql.Identifier(*table.split(".")).as_string()


def _one(conn: Connection, kind: type[ROW], query: str) -> ROW:
    row = _first(conn, kind, query, {})
    if row is None:
        raise LookupError(query)
    return row


def _first(conn: Connection, kind: type[ROW], query: str, params: dict[str, Any]) -> ROW | None:
    with conn.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(SQL[query], params).fetchone()
