"""Indexes of the wide tables that wait for a load to end: dropped before it, built after it.

In: the tables of a copy. Out: the same tables with the same indexes, and BRIN ones if asked for. Guarantees:
an index is dropped in the transaction that records its definition, and forgotten only once it is built again;
whatever happens in between, the next run finds it. Keys and unique indexes stay: they make retries safe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import psycopg
from psycopg import sql

from backfill.runner import UnfinishedError
from backfill.settings import Settings
from widetable.channel_map import MAX_IDENTIFIER_BYTES
from widetable.control import check_control
from widetable.ddl import ddl_errors
from widetable.errors import ConfigurationError, PartialError, RetryableError
from widetable.layout import WideTable, load_layout
from widetable.postgres import Connection, connect_ddl, connect_target
from widetable.statements import load_statements

SQL: Final = load_statements(files("backfill") / "sql" / "indexes.sql")
TURNS_MS: Final = (200, 400, 800, 1_600, 3_200)
"""Waits for a table's lock, each longer than the one before: writers that come meanwhile queue behind it."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index that is to be built; `definition` is its CREATE INDEX."""

    schema: str
    name: str
    table: str
    definition: str


@contextmanager
def deferred_indexes(
    settings: Settings, ships: Sequence[str], tell: Callable[[str], None], *, drop: bool, brin: bool
) -> Iterator[None]:
    """Load in the block: before it indexes are dropped, after it all that are recorded are built.

    They stay recorded if the block was stopped before its end, for the run that goes on with it.

    Args:
        settings: where the target is.
        ships: whose tables are loaded.
        tell: takes a line about what happens.
        drop: whether to drop the indexes there are.
        brin: whether to build a BRIN index on created_time where there is none.
    """
    if drop or brin:
        with _ddl_session(settings) as conn:
            _prepare(conn, ships, tell, drop=drop, brin=brin)
    try:
        yield
    except UnfinishedError:
        for line in waiting_lines(settings):
            tell(line)
        raise
    except PartialError:
        build_recorded(settings, tell)
        raise
    build_recorded(settings, tell)


def build_recorded(settings: Settings, tell: Callable[[str], None]) -> None:
    """Build all indexes that are recorded, also by runs that did not come to their end.

    Raises:
        ConfigurationError: an index can't be built as it was, or the role may not.
    """
    if not recorded(settings):
        return
    with _ddl_session(settings) as conn:
        if not conn.execute(SQL["lock"]).fetchall()[0][0]:
            tell("another run builds the indexes")
            return
        conn.execute("SET lock_timeout = 0")  # a build waits for every older transaction, however long
        for index in _recorded(conn):
            _build(conn, index, tell)


def recorded(settings: Settings) -> list[Index]:
    """The indexes that are to be built."""
    with closing(connect_target(settings.target, "backfill indexes")) as conn:
        check_control(conn, settings.target.control_schema)
        return _recorded(conn)


def waiting_lines(settings: Settings) -> list[str]:
    """What a person should know of indexes that wait, for `status` and for a run that was stopped."""
    names = [index.name for index in recorded(settings)]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")  # noqa: PLR2004 - a few examples
    return [
        f"{len(names)} indexes wait for a load to end ({shown}): the `backfill run` that ends it builds them."
    ]


@contextmanager
def _ddl_session(settings: Settings) -> Iterator[Connection]:
    with closing(connect_ddl(settings.target, "backfill indexes")) as conn, ddl_errors(settings.target):
        check_control(conn, settings.target.control_schema)
        yield conn


def _prepare(
    conn: Connection, ships: Sequence[str], tell: Callable[[str], None], *, drop: bool, brin: bool
) -> None:
    tables = [table for (ship, _), table in load_layout(conn).tables.items() if ship in ships]
    oids = [table.oid for table in tables]
    _require_owner(conn, oids)
    if brin:
        lacking = {oid for (oid,) in conn.execute(SQL["without_brin"], [oids])}
        for table in tables:
            if table.oid in lacking:
                _record(conn, _brin(table))
    if drop:
        found = [Index(*row) for row in conn.execute(SQL["secondary"], [oids])]
        for index in found:
            _drop(conn, index)
        tell(f"{len(found)} indexes are dropped for the load and built again after it")


def _require_owner(conn: Connection, oids: Sequence[int]) -> None:
    """Refuse before anything is recorded: a build that the role may not do would end every later run, too."""
    for table, owner in conn.execute(SQL["of_others"], [oids]):
        raise ConfigurationError(
            f"Indexes of {table} can be dropped and built by its owner only: set CDC_TARGET__DDL_DSN to the role"
            f" {owner}, or run without --defer-indexes and --brin. Nothing was copied."
        )


def _drop(conn: Connection, index: Index) -> None:
    """Record and drop an index, both or neither."""
    drop = sql.SQL("DROP INDEX {}").format(sql.Identifier(index.schema, index.name))
    for turn_ms in TURNS_MS:
        try:
            with conn.transaction():
                conn.execute("SELECT set_config('lock_timeout', %s, true)", [str(turn_ms)])
                _record(conn, index, "record_dropped")
                conn.execute(drop)
        except psycopg.errors.LockNotAvailable:
            continue
        return
    raise RetryableError(
        f"somebody holds table {index.table}, so its index {index.name} can't be dropped: run again, or without"
        " --defer-indexes"
    )


def _record(conn: Connection, index: Index, statement: str = "record") -> None:
    conn.execute(SQL[statement], [index.schema, index.name, index.table, index.definition])


def _recorded(conn: Connection) -> list[Index]:
    return [Index(*row) for row in conn.execute(SQL["recorded"])]


def _build(conn: Connection, index: Index, tell: Callable[[str], None]) -> None:
    """Build an index beside readers and writers; a build that was broken off begins anew."""
    name = sql.Identifier(index.schema, index.name)
    place = {"schema": index.schema, "table": index.table, "index": index.name}
    table_there, valid = conn.execute(SQL["state"], place).fetchone() or (False, None)
    if table_there and not valid:
        tell(f"building index {index.name} of {index.table}")
        if valid is False:
            conn.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(name))
        try:
            conn.execute(index.definition.replace(" INDEX ", " INDEX CONCURRENTLY ", 1).encode())
        except psycopg.errors.InsufficientPrivilege:
            raise  # the index is as it should be, the role is not
        except psycopg.errors.ProgrammingError as error:
            raise ConfigurationError(
                f"Index {index.name} can't be built as it was: {error.diag.message_primary}. Build another one by"
                " hand, and delete its row from deferred_index."
            ) from error
    conn.execute(SQL["forget"], [index.schema, index.name])


def _brin(table: WideTable) -> Index:
    name = f"{table.name}_brin"
    if len(name.encode()) > MAX_IDENTIFIER_BYTES:
        name = f"brin_{hashlib.sha256(table.name.encode()).hexdigest()[:24]}"
    statement = sql.SQL("CREATE INDEX {} ON {} USING brin (created_time)")
    definition = statement.format(sql.Identifier(name), table.identifier).as_string()
    return Index(table.schema, name, table.name, definition)
