"""Databases on any PostgreSQL server: created with the narrow table, dropped without a trace."""

import time
from dataclasses import dataclass
from importlib import resources
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from devstack.errors import DevstackError

NARROW_SQL = resources.files("devstack").joinpath("sql/narrow.sql").read_text()
DROP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server, known by the DSN of a role that may create databases."""

    admin_dsn: str

    def dsn(self, database: str) -> str:
        """The DSN of `database` on this server, in the form of the administrator's DSN."""
        parts = urlsplit(self.admin_dsn)
        if parts.scheme in {"postgresql", "postgres"}:
            return urlunsplit(parts._replace(path=f"/{database}"))
        return make_conninfo(self.admin_dsn, dbname=database)

    def create_database(self, name: str, *, narrow: bool = True) -> str:
        """Create a database, with the narrow table unless told otherwise; returns its DSN."""
        with psycopg.connect(self.admin_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        dsn = self.dsn(name)
        if narrow:
            with psycopg.connect(dsn) as connection:
                connection.execute(NARROW_SQL.encode())
        return dsn

    def has_database(self, name: str) -> bool:
        """Whether the server has a database of that name."""
        with psycopg.connect(self.admin_dsn) as connection:
            query = "SELECT FROM pg_database WHERE datname = %s"
            return connection.execute(query, [name]).fetchone() is not None

    def drop_database(self, name: str) -> None:
        """Drop a database with its sessions, replication slots and prepared transactions."""
        if not self.has_database(name):
            return
        with psycopg.connect(self.dsn(name), autocommit=True) as connection:
            _roll_back_prepared(connection)
        with psycopg.connect(self.admin_dsn, autocommit=True) as connection:
            _drop_slots(connection, name)
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _roll_back_prepared(connection: psycopg.Connection) -> None:
    query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
    for (gid,) in connection.execute(query).fetchall():
        connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


def _drop_slots(connection: psycopg.Connection, database: str) -> None:
    """Drop the database's slots; one in use is freed first, for a reader may come back before the drop."""
    deadline = time.monotonic() + DROP_TIMEOUT_S
    query = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"
    while slots := connection.execute(query, [database]).fetchall():
        for slot, active_pid in slots:
            if active_pid is not None:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", [active_pid])
            try:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                continue
        if time.monotonic() > deadline:
            raise DevstackError(f"replication slots of {database} stay in use: stop their reader first")
