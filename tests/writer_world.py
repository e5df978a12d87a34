"""A small target for the tests of the writer: written batch by batch, read back cell by cell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from psycopg import sql

from devstack.databases import Server
from devstack.pytest_plugin import fresh_database
from tests.property.model.cell import UNKNOWN, Cell
from tests.writer_samples import SHIP, SISTER, TABLE_OF, TYPES, Key, Sample, narrow_batch
from widetable.applied import Applied
from widetable.apply import Origin, Writer
from widetable.channel_map import column_names
from widetable.control import check_control
from widetable.ddl import apply_schema
from widetable.narrow import DeadCell
from widetable.postgres import Connection, connect_target
from widetable.schema_plan import ColumnTypes, Deletes, PlannedChannel, SchemaPlan, System
from widetable.settings import TargetSettings

WAIT_S = 20.0
HISTORY, STREAM = Origin("test"), Origin("test", "topic", "topic-id")


@dataclass(frozen=True, slots=True)
class WriterWorld:
    """A target with its writer; `second` opens another session."""

    settings: TargetSettings
    conn: Connection
    writer: Writer
    channels: dict[str, tuple[int, str]]  # table number and column

    def write(self, samples: Iterable[Sample], origin: Origin = STREAM) -> Applied:
        """Apply samples as one batch in one transaction."""
        return self.apply(narrow_batch(samples), origin=origin)

    def apply(self, batch: pa.RecordBatch, dead: Sequence[DeadCell] = (), origin: Origin = STREAM) -> Applied:
        """Apply a batch in one transaction; every event must be accounted for."""
        with self.conn.transaction():
            self.writer.begin()
            applied = self.writer.apply(batch, list(dead), origin)
        assert applied.balanced, applied
        assert applied.events == batch.num_rows
        return applied

    @contextmanager
    def second(self) -> Iterator[WriterWorld]:
        """Another session on the same target, with its own writer."""
        with connect_target(self.settings, "second") as conn:
            yield _open(self.settings, conn, self.channels)

    # -- what is there -----------------------------------------------------------------------------------------

    def tables(self) -> list[tuple[str, str, int]]:
        """(table, ship, table number) of every wide table."""
        layout = self.writer.layout
        return sorted((table.name, ship, number) for (ship, number), table in layout.tables.items())

    def cells(self) -> dict[Key, Cell]:
        """Every wide cell that has a value or a version."""
        found = {}
        for table, ship, number in self.tables():
            mine = [(name, column) for name, (no, column) in self.channels.items() if no == number]
            for moment_us, versions, *values in self._rows(table, [column for _, column in mine]):
                for (channel, _), value in zip(mine, values, strict=True):
                    entry = versions.get(str(self.writer.layout.ordinal[channel]))
                    if entry or value is not None:
                        found[Key(ship, moment_us, channel)] = _cell(value, entry)
        return found

    def _rows(self, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        query = sql.SQL("SELECT {}, coalesce(_x, '{{}}'), {} FROM {}").format(
            sql.SQL(MOMENT_US),
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns),
            sql.Identifier(self.settings.wide_schema, table),
        )
        return self.conn.execute(query).fetchall()

    def overflow(self) -> dict[Key, Cell]:
        """Every cell of overflow."""
        query = f"SELECT ship_id, {MOMENT_US}, channel_id, value, epoch, lsn, kind FROM overflow_cell"
        return {
            Key(ship, moment_us, channel): _cell(value, [epoch, lsn, kind] if kind else None)
            for ship, moment_us, channel, value, epoch, lsn, kind in self.conn.execute(query.encode())
        }

    def reasons(self) -> dict[Key, str]:
        """Why each cell of overflow is there."""
        query = f"SELECT ship_id, {MOMENT_US}, channel_id, reason FROM overflow_cell"
        return {Key(*key): reason for *key, reason in self.conn.execute(query.encode())}

    def texts(self, *, versions: bool = True) -> dict[str, list[str]]:
        """Every wide row as PostgreSQL prints it, by table and moment.

        Without versions, rows that hold nothing else are left out.
        """
        found = {}
        for table, _, number in self.tables():
            columns = [sql.Identifier(column) for no, column in self.channels.values() if no == number]
            listed = sql.SQL(", ").join(columns)
            texts = sql.SQL(", ").join(sql.SQL("{}::text").format(column) for column in columns)
            row = sql.SQL("t") if versions else sql.SQL("ROW(created_time, {})").format(listed)
            query = sql.SQL(
                "SELECT {}::text FROM {} t WHERE {} OR num_nonnulls(VARIADIC ARRAY[{}]) > 0 ORDER BY created_time"
            ).format(row, sql.Identifier(self.settings.wide_schema, table), sql.Literal(versions), texts)
            found[table] = [text for (text,) in self.conn.execute(query)]
        return found

    def tuples_written(self) -> dict[str, int]:
        """Tuples inserted, updated or deleted so far, by table; overflow and dead cells included."""
        self.conn.execute("SELECT pg_stat_force_next_flush()")
        self.conn.execute("SELECT pg_stat_clear_snapshot()")
        query = """SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
                   WHERE schemaname IN (%s, %s)"""
        schemas = [self.settings.wide_schema, self.settings.control_schema]
        return dict(self.conn.execute(query, schemas).fetchall())

    def clear(self) -> None:
        """Remove all cells; layout and tables stay."""
        names = [sql.Identifier(self.settings.wide_schema, table) for table, *_ in self.tables()]
        control = [
            sql.Identifier(self.settings.control_schema, name) for name in ("overflow_cell", "dead_cell")
        ]
        self.conn.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join([*names, *control])))


MOMENT_US = "(extract(epoch FROM created_time) * 1000000)::bigint"


def _cell(value: str | None, entry: Sequence[Any] | None) -> Cell:
    if not entry:
        return Cell(value)
    epoch, lsn, kind = entry
    return Cell(value, (epoch, lsn), kind)


@contextmanager
def open_world(
    dsn: str,
    *,
    column_type: ColumnTypes = "text",
    deletes: Deletes = "apply",
    table_of: dict[str, int] | None = None,
    ships: Sequence[str] = (SHIP, SISTER),
) -> Iterator[WriterWorld]:
    """A target in schemas of its own, so that several share a database."""
    name = f"{column_type}_{deletes}"
    settings = TargetSettings(dsn=dsn, wide_schema=f"wide_{name}", control_schema=f"control_{name}")
    table_of = TABLE_OF if table_of is None else table_of
    plan = small_plan(table_of, ships, column_type, deletes)
    with connect_target(settings, "test") as conn:
        apply_schema(conn, settings, plan)
        placed = {part.channel_id: (part.table_no, part.column_name) for part in plan.channels}
        yield _open(settings, conn, placed)


Worlds = Callable[[ColumnTypes, Deletes], WriterWorld]


@contextmanager
def open_worlds(server: Server) -> Iterator[Worlds]:
    """Targets by column type and deletes choice, all in one database; emptied whenever they are asked for."""
    with fresh_database(server, "writer", narrow=False) as dsn, ExitStack() as stack:
        made: dict[tuple[ColumnTypes, Deletes], WriterWorld] = {}

        def world(column_type: ColumnTypes, deletes: Deletes) -> WriterWorld:
            choice = column_type, deletes
            if choice not in made:
                made[choice] = stack.enter_context(open_world(dsn, column_type=column_type, deletes=deletes))
            made[choice].clear()
            return made[choice]

        yield world


def _open(settings: TargetSettings, conn: Connection, channels: dict[str, tuple[int, str]]) -> WriterWorld:
    check_control(conn, settings.control_schema)
    writer = Writer(conn)
    writer.load()
    return WriterWorld(settings, conn, writer, channels)


def small_plan(
    table_of: dict[str, int], ships: Sequence[str], column_type: ColumnTypes, deletes: Deletes
) -> SchemaPlan:
    """A plan of these channels; in a typed one, those of `TYPES` have that type and the others are text."""
    numbers = sorted(set(table_of.values()))
    columns = {
        no: column_names(channel for channel, table_no in table_of.items() if table_no == no)
        for no in numbers
    }
    return SchemaPlan(
        column_type=column_type,
        systems=tuple(System(no, f"system {no}", no == numbers[0]) for no in numbers),
        rules=(),
        channels=tuple(
            PlannedChannel(
                channel,
                no,
                columns[no][channel],
                "text" if column_type == "text" else TYPES.get(channel, "text"),
            )
            for channel, no in table_of.items()
        ),
        ships=tuple(ships),
        deletes=deletes,
    )


@contextmanager
def waiting_behind(first: WriterWorld, samples: list[Sample], second: WriterWorld) -> Iterator[list[Applied]]:
    """The block writes with `first`; before it commits, `second` writes in a thread and is seen to wait for it.

    The list holds what became of the second batch, once the block is left.
    """
    done: list[Applied] = []
    thread = threading.Thread(target=lambda: done.append(second.write(samples)))
    with first.conn.transaction():
        first.writer.begin()
        yield done
        thread.start()
        wait_for_lock(first, second)
    thread.join()
    assert done, "the second writer failed"


def wait_for_lock(first: WriterWorld, second: WriterWorld) -> None:
    """Until the server says that the second session waits for the first."""
    pids = [first.conn.info.backend_pid, second.conn.info.backend_pid]
    deadline = time.monotonic() + WAIT_S
    with connect_target(first.settings, "watcher") as conn:
        while time.monotonic() < deadline:
            row = conn.execute("SELECT %s = ANY (pg_blocking_pids(%s)), pg_sleep(0.01)", pids).fetchone()
            if row and row[0]:
                return
    raise AssertionError("the second writer does not wait for the first")


def known(found: dict[Key, Cell], key: Key) -> Cell:
    """A cell, unknown where there is none."""
    return found.get(key, UNKNOWN)
