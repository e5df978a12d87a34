"""What the source must hold before a slot makes sense: a publication and a heartbeat table.

In: a source connection in autocommit. Out: a sentence for each change made, nothing where all was in place.
Guarantee: existing publications lose no table, and pgoutput finds the publication in the catalogue as of the
slot's first change, because it is made before the slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

import psycopg
from psycopg import sql

from cdc_consumer import source_database
from widetable.errors import ConfigurationError
from widetable.postgres import Connection
from widetable.settled import beat_query

LOCK_TIMEOUT_MS: Final = 10_000
"""ADD TABLE waits for running DDL and VACUUM on the narrow table; writers don't block it."""

PUBLISH: Final = sql.SQL("publish = 'insert, update, delete, truncate', publish_via_partition_root = true")


def ensure_publication(conn: Connection, name: str, tables: list[str]) -> Iterator[str]:
    """Make the publication publish `tables` in full; yields what was changed.

    Raises:
        ConfigurationError: it has a row filter, or the role may not change it.
    """
    present = source_database.publication(conn, name)
    publication = sql.Identifier(name)
    named = sql.SQL(", ").join(_identifier(table) for table in tables)
    if present is None:
        _execute(
            conn, sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH ({})").format(publication, named, PUBLISH)
        )
        yield f"created publication {name}"
        return
    if present.filtered:
        raise ConfigurationError(
            f"publication {name} has a row filter, so changes would be missing from the stream:"
            " remove it, or set CDC_CONNECT__PUBLICATION to another name"
        )
    if missing := [table for table in tables if table not in present.tables]:
        added = sql.SQL(", ").join(_identifier(table) for table in missing)
        _execute(conn, sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(publication, added))
        yield f"added {', '.join(missing)} to publication {name}"
    if not (present.publishes_all and present.pubviaroot):
        _execute(conn, sql.SQL("ALTER PUBLICATION {} SET ({})").format(publication, PUBLISH))
        yield f"publication {name} publishes all operations via the partition root"


class Dropped(Enum):
    """What became of an object that was to go; one that belongs to another role costs nothing where it is."""

    YES = auto()
    NOTHING_THERE = auto()
    NOT_OURS = auto()


def drop_publication(conn: Connection, name: str) -> Dropped:
    """Drop the publication, if it is this role's."""
    if source_database.publication(conn, name) is None:
        return Dropped.NOTHING_THERE
    return _drop(conn, sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))


def ensure_heartbeat(conn: Connection, table: str, connector_role: str) -> Iterator[str]:
    """Make the heartbeat table and its row, writable for the connector's role; yields what was changed."""
    schema, _ = table.split(".")
    if _exists(conn, table):
        return
    _execute(conn, sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    _execute(
        conn,
        sql.SQL("CREATE TABLE IF NOT EXISTS {} (id int PRIMARY KEY, at timestamptz NOT NULL)").format(
            _identifier(table)
        ),
    )
    conn.execute(beat_query(table).encode())
    others = "SELECT FROM pg_roles WHERE rolname = %s AND rolname <> current_user"
    if conn.execute(others, [connector_role]).fetchone():
        role = sql.Identifier(connector_role)
        _execute(conn, sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), role))
        _execute(conn, sql.SQL("GRANT SELECT, INSERT, UPDATE ON {} TO {}").format(_identifier(table), role))
    yield f"created heartbeat table {table}"


def drop_heartbeat(conn: Connection, table: str) -> Dropped:
    """Drop the heartbeat table, if it is this role's and no other pipeline publishes it."""
    if not _exists(conn, table) or source_database.publishers(conn, table):
        return Dropped.NOTHING_THERE
    return _drop(conn, sql.SQL("DROP TABLE {}").format(_identifier(table)))


def _drop(conn: Connection, statement: sql.Composed) -> Dropped:
    try:
        _bounded(conn, statement)
    except psycopg.errors.InsufficientPrivilege:
        return Dropped.NOT_OURS
    return Dropped.YES


def _exists(conn: Connection, table: str) -> bool:
    row = conn.execute("SELECT to_regclass(%s)", [_identifier(table).as_string()]).fetchone()
    return row is not None and row[0] is not None


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


def _execute(conn: Connection, statement: sql.Composed) -> None:
    try:
        _bounded(conn, statement)
    except psycopg.errors.InsufficientPrivilege as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"the source role may not prepare the source: {reason}. It must own the narrow table and have"
            " CREATE on the database; or let its owner run deploy/roles.sql, which makes them"
        ) from error


def _bounded(conn: Connection, statement: sql.Composed) -> None:
    """One DDL statement in its own transaction, so that nothing of ours stays open."""
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
        conn.execute(statement)
