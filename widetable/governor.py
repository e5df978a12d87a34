"""Channels and ships that nobody has seen: given a place while writers are at work.

In: cells that wait in overflow. Out: columns, tables, and those cells in them. Guarantees: one governor at a
time per control schema; a step is bounded and can be cut short anywhere; a channel or ship is `pending`, its
cells going to overflow, until the transaction that moves the last of them makes it live; a table that can't
take a column is left alone and reported. A reader's query delays DDL, and DDL delays readers by 0.5 s at
most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import sql

from widetable.control import check_control
from widetable.ddl import create_tables, ddl_errors
from widetable.drain import Destination, Drain
from widetable.errors import ConfigurationError
from widetable.layout_lock import layout_change, raise_version
from widetable.newcomers import register_newcomers
from widetable.part_views import view_changes
from widetable.postgres import Connection, fetch_one, retryable_errors
from widetable.registry import Registry, require_registry, set_channels_live, set_ship_live
from widetable.settings import TargetSettings
from widetable.wide_table import Column, add_columns, found_columns

TRY_LOCK: Final = """
SELECT pg_try_advisory_lock(hashtextextended('narrow-to-wide governor ' || current_schema(), 0))
"""
DDL_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '500ms'"
"""Whoever comes after a waiting ALTER TABLE waits with it."""
BACKOFF_S: Final = (0.2, 0.5, 1.0)
"""Pauses between attempts at a table; then it is left to the next step."""
STEP_S: Final = 5.0
"""After so long a step starts no more chunks."""


@dataclass(slots=True)
class GovernorReport:
    """What one step did.

    Attributes:
        busy: another governor is at work; nothing was done.
        new_ships: registered as pending.
        new_channels: registered as pending.
        altered_tables: got columns; of a table in parts, its view likewise.
        drained_cells: moved from overflow to their columns.
        live_ships: pending no more.
        live_channels: pending no more.
        waiting: newcomers that the policy leaves to a person.
        stuck: what could not be done, and why; tried again in the next step.
        more: the time was up; the next step has more to do at once.
    """

    busy: bool = False
    new_ships: list[str] = field(default_factory=list)
    new_channels: list[str] = field(default_factory=list)
    altered_tables: list[str] = field(default_factory=list)
    drained_cells: int = 0
    live_ships: list[str] = field(default_factory=list)
    live_channels: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    more: bool = False


def govern(
    connect: Callable[[], Connection], target: TargetSettings, *, step_s: float = STEP_S
) -> GovernorReport:
    """Do one bounded step: register newcomers, add columns, drain overflow, make live.

    Args:
        connect: opens an autocommit session on the target, with the rights for DDL; closed before returning,
            which frees the governor's lock.
        target: schemas and the readers' role.
        step_s: seconds after which no more chunks are started.

    Raises:
        ConfigurationError: no or another version of the control schema.
        RetryableError: an outage; what was committed stays, the next step goes on.
    """
    with closing(connect()) as conn, retryable_errors("governing new channels and ships"):
        check_control(conn, target.control_schema)
        if not fetch_one(conn, TRY_LOCK)[0]:
            return GovernorReport(busy=True)
        return Governor(conn, target, time.monotonic() + step_s).step()


class Governor:
    """One step, on a session that holds the governor's lock."""

    def __init__(self, conn: Connection, target: TargetSettings, deadline_s: float) -> None:
        self._conn = conn
        self._target = target
        self._deadline_s = deadline_s  # by the monotonic clock
        self._report = GovernorReport()

    def step(self) -> GovernorReport:
        """Register, then bring pending channels to life, then pending ships."""
        self._attempt(self._register)
        registry = require_registry(self._conn)
        for table_no, columns in registry.columns.items():
            if any(column.pending for column in columns):
                self._attempt(lambda no=table_no: self._raise_channels(no))  # type: ignore[misc]
        for ship_id, pending in registry.ships.items():
            if pending:
                self._attempt(lambda ship=ship_id: self._raise_ship(ship))  # type: ignore[misc]
        return self._report

    def _attempt(self, work: Callable[[], None]) -> None:
        """What a person has to put right must not stop the rest, nor the consumer."""
        try:
            with ddl_errors(self._target):
                work()
        except ConfigurationError as error:
            self._report.stuck.append(str(error))

    def _register(self) -> None:
        found = register_newcomers(self._conn, self._target)
        self._report.new_ships, self._report.new_channels = found.ships, found.channels
        self._report.waiting += found.waiting
        self._report.stuck += found.stuck

    # -- channels -------------------------------------------------------------------------------------------

    def _raise_channels(self, table_no: int) -> None:
        """Give the pending channels of a system their column in every ship's table, their cells, and life."""
        registry = require_registry(self._conn)
        pending = [column for column in registry.columns[table_no] if column.pending]
        names = [name for name, (_, no) in registry.tables().items() if no == table_no]
        if not (
            self._add_columns(names, pending)
            and self._show_columns(registry, table_no)
            and self._drain_early(self._channel_drains(registry, table_no, pending))
        ):
            return
        with layout_change(self._conn):
            # Read again: ships may have come since.
            drains = self._channel_drains(require_registry(self._conn), table_no, pending)
            self._report.drained_cells += sum(drain.finish() for drain in drains)
            set_channels_live(self._conn, [column.channel_id for column in pending])
            raise_version(self._conn)
        self._report.live_channels += [column.channel_id for column in pending]

    def _channel_drains(self, registry: Registry, table_no: int, pending: Sequence[Column]) -> list[Drain]:
        live = [ship_id for ship_id, is_pending in registry.ships.items() if not is_pending]
        tables = registry.tables(live).items()
        return [self._drain(registry, ship, name, pending) for name, (ship, no) in tables if no == table_no]

    def _add_columns(self, names: Sequence[str], pending: Sequence[Column]) -> bool:
        """Add the columns that tables lack; returns whether all have them now."""
        there = found_columns(self._conn, self._target.wide_schema, names)
        self._report.stuck += [
            f"{name} is missing: run `cdc-consumer schema apply`" for name in names if name not in there
        ]
        changes = {
            name: add_columns(self._target.wide_schema, name, lacking)
            for name, columns in there.items()
            if (lacking := [column for column in pending if column.name not in columns])
        }
        return self._alter_all(changes) and len(there) == len(names)

    def _show_columns(self, registry: Registry, table_no: int) -> bool:
        """Show readers the columns of a part; returns whether all views have them now."""
        system = next(system for system in registry.systems if system.table_no == table_no)
        shown = {name for name, (_, number) in registry.views().items() if number == system.reader_no}
        changes = view_changes(self._conn, registry)
        return self._alter_all({name: changes[name] for name in sorted(shown & changes.keys())})

    def _alter_all(self, changes: Mapping[str, sql.Composed]) -> bool:
        """Run the statement of each table or view; returns whether all were run.

        Tries a few times, and gives readers a pause in between.
        """
        left = list(changes)
        for pause_s in (*BACKOFF_S, 0.0):
            left = self._alter(left, changes)
            if not left or time.monotonic() > self._deadline_s:
                break
            time.sleep(pause_s)
        self._report.stuck += [
            f"{name}: its new columns wait for a lock that somebody holds" for name in left
        ]
        return not left

    def _alter(self, names: Sequence[str], changes: Mapping[str, sql.Composed]) -> list[str]:
        """Alter up to the first table that a reader holds; returns those that are left.

        One transaction and one new version for all: every version makes every writer prepare itself anew.
        """
        left = list(names)
        if not left:
            return left
        with layout_change(self._conn):
            self._conn.execute(DDL_LOCK_TIMEOUT)
            try:
                while left:
                    with self._conn.transaction():  # a savepoint: what is altered stays
                        self._conn.execute(changes[left[0]])
                    self._report.altered_tables.append(left.pop(0))
            except psycopg.errors.LockNotAvailable:
                # The one that is held goes to the end, so that it can't keep the others waiting.
                left = [*left[1:], left[0]]
            if len(left) < len(names):
                raise_version(self._conn)
        return left

    # -- ships ----------------------------------------------------------------------------------------------

    def _raise_ship(self, ship_id: str) -> None:
        """Give a ship the tables that it lacks, its cells, and life."""
        with layout_change(self._conn):
            registry = require_registry(self._conn)
            if create_tables(self._conn, self._target, registry, ship_id):
                raise_version(self._conn)
        if not self._drain_early(self._ship_drains(registry, ship_id)):
            return
        with layout_change(self._conn):
            drains = self._ship_drains(require_registry(self._conn), ship_id)
            self._report.drained_cells += sum(drain.finish() for drain in drains)
            set_ship_live(self._conn, ship_id)
            raise_version(self._conn)
        self._report.live_ships.append(ship_id)

    def _ship_drains(self, registry: Registry, ship_id: str) -> list[Drain]:
        return [
            self._drain(
                registry, ship_id, name, [column for column in registry.columns[no] if not column.pending]
            )
            for name, (_, no) in registry.tables([ship_id]).items()
        ]

    # -- cells ----------------------------------------------------------------------------------------------

    def _drain(self, registry: Registry, ship_id: str, name: str, columns: Sequence[Column]) -> Drain:
        to = Destination(ship_id, registry.wide_schema, name, tuple(columns))
        return Drain(self._conn, to, ignore_deletes=registry.deletes == "ignore")

    def _drain_early(self, drains: Sequence[Drain]) -> bool:
        """Move what may move before the last transaction, chunk by chunk; returns whether that is done."""
        while True:
            if time.monotonic() > self._deadline_s:
                self._report.more = True
                return False
            with layout_change(self._conn):
                moved = sum(drain.fill() for drain in drains)
            self._report.drained_cells += moved
            if not moved:
                return True
