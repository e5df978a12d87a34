"""Resync, the one way to heal: the source's present state of some cells becomes their first version of the epoch.

In: cells that are in doubt. Out: the same cells as the source has them, absence included. Backfill can't do
that: it fills holes, and an update, delete or re-insert that nobody saw leaves none. Guarantee: once the stream
has drained, a cell that was resynced equals the source's, whatever was lost of it before the epoch began or
before the resync. It rests on the order inside the transaction:

1. every ledger row of the pipeline is locked, so the stream stands still;
2. the source is read in a snapshot taken after that, which therefore is never older than what is applied;
3. the cells are written by the same `Writer` as everything else, as version (epoch, 0, "s"): what the stream
   has recorded in this epoch stays, and all that it brings later outranks the resync.

The stream waits meanwhile; so cells are taken in chunks, each a transaction of its own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from widetable.applied import Applied
from widetable.apply import Origin, Writer
from widetable.barrier import require_barrier
from widetable.control import check_control
from widetable.errors import ConfigurationError, LayoutChangedError, RetryableError, UnreachableError
from widetable.hand_off import HandOff, require_hand_off
from widetable.narrow import NARROW_SCHEMA, Op, history_columns
from widetable.postgres import Connection, connect_source, connect_target, fetch_one, retryable_errors
from widetable.settings import SourceSettings, TargetSettings
from widetable.standstill import standstill
from widetable.statements import load_statements

CellKey = tuple[str, int, str]
"""Ship, moment in microseconds since 1970, channel."""

SQL: Final = load_statements(files("widetable") / "sql" / "resync.sql")
APPLICATION: Final = "resync"
CHUNK_CELLS: Final = 5_000
"""A fraction of a second of work: that is how long the stream waits."""
ATTEMPTS: Final = 8
MAX_WAIT_S: Final = 10.0
READ_COLUMNS: Final = 8
"""Columns of `NARROW_SCHEMA` that come from the source."""


class Resync:
    """Heals cells; opens its two sessions when they are needed, and again after an outage."""

    def __init__(self, source: SourceSettings, target: TargetSettings, pipeline: str) -> None:
        self._source_settings, self._target_settings = source, target
        self._pipeline = pipeline
        self._table = sql.Identifier(*source.table.split(".", 1))
        self._open: tuple[Connection, Connection, Writer] | None = None

    def heal(self, cells: Collection[CellKey]) -> Applied:
        """Give the cells the source's state, chunk by chunk.

        Cells that the source lost with everything as old (a dropped partition) are left alone.

        Raises:
            ConfigurationError: no hand-off, or the source is a standby.
            StoppedError: the source is another cluster than the stream's.
            UnreachableError, RetryableError: an outage that outlasted all attempts; chunks before it are done.
        """
        chosen = sorted(set(cells))
        total = Applied()
        for start in range(0, len(chosen), CHUNK_CELLS):
            total += self._patiently(chosen[start : start + CHUNK_CELLS])
        return total

    def close(self) -> None:
        """End both sessions; harmless when they are gone."""
        if self._open is not None:
            source, target, _ = self._open
            self._open = None
            source.close()
            target.close()

    def _patiently(self, cells: Sequence[CellKey]) -> Applied:
        for attempt in range(ATTEMPTS):
            try:
                return self._heal_chunk(cells)
            except (RetryableError, UnreachableError) as error:
                if not isinstance(error, LayoutChangedError):
                    self.close()
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(min(MAX_WAIT_S, 0.1 * 2.0**attempt))
        raise AssertionError("unreachable")  # pragma: no cover

    def _heal_chunk(self, cells: Sequence[CellKey]) -> Applied:
        source, target, writer = self._sessions()
        with retryable_errors("resync"):
            try:
                with standstill(target, self._pipeline):
                    hand_off = require_hand_off(target, self._pipeline)
                    writer.begin()
                    batch = self._read(source, cells, hand_off, writer.layout.ignore_deletes)
                    return writer.apply(batch, [], Origin(self._pipeline))
            except LayoutChangedError:
                writer.load()
                raise

    def _sessions(self) -> tuple[Connection, Connection, Writer]:
        if self._open is None:
            target = connect_target(self._target_settings, APPLICATION)
            try:
                with retryable_errors("resync"):
                    check_control(target, self._target_settings.control_schema)
                    writer = Writer(target)
                    writer.load()
                self._open = connect_source(self._source_settings, APPLICATION), target, writer
            except BaseException:
                target.close()
                raise
        return self._open

    def _read(
        self, source: Connection, cells: Sequence[CellKey], hand_off: HandOff, ignore_deletes: bool
    ) -> pa.RecordBatch:
        """The cells' state at the source, in a new snapshot that lies behind the barrier."""
        with _source_snapshot(source, hand_off):
            oldest_us = source.execute(self._query("oldest")).fetchall()[0][0]
            columns = [list(column) for column in zip(*cells, strict=True)]
            rows = source.execute(self._query("read"), columns).fetchall()
        comparable = [row for row in rows if not row[-1] or (oldest_us is not None and row[2] >= oldest_us)]
        return resync_batch(comparable, hand_off.epoch, ignore_deletes=ignore_deletes)

    def _query(self, name: str) -> sql.Composed:
        return sql.SQL(SQL[name]).format(table=self._table)


@contextmanager
def _source_snapshot(source: Connection, hand_off: HandOff) -> Iterator[None]:
    """A REPEATABLE READ transaction that sees all that can have been streamed by now."""
    if fetch_one(source, "SELECT pg_is_in_recovery()")[0]:
        raise ConfigurationError(
            "The source is a standby, which may lag behind the target: resync needs the primary, let"
            " CDC_SOURCE__DSN name it."
        )
    if fetch_one(source, SQL["unseen_commit"])[0]:
        raise RetryableError(
            "a commit at the source waits for its synchronous standby: no snapshot sees it yet"
        )
    try:
        with source.transaction(force_rollback=True):
            source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            require_barrier(source, hand_off)
            yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as error:
        raise ConfigurationError(
            f"Resync can't read the source: {error.diag.message_primary}. Check CDC_SOURCE__TABLE and the role."
        ) from error


def resync_batch(
    rows: Sequence[tuple[Any, ...]], epoch: int, *, ignore_deletes: bool = False
) -> pa.RecordBatch:
    """Rows of the source (eight columns of `NARROW_SCHEMA`, and whether the row is absent) as a `NarrowBatch`.

    Where deletes are ignored, an absent cell is one: its value is kept, and the deletion recorded.
    """
    columns = list(zip(*rows, strict=True)) or [()] * (READ_COLUMNS + 1)
    absent = np.array(columns[READ_COLUMNS], bool)
    fields = list(NARROW_SCHEMA)[:READ_COLUMNS]
    read = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=False)]
    change = history_columns(len(rows)) | {
        "op": pa.array(np.where(absent & ignore_deletes, Op.DELETE, Op.RESYNC).astype(np.int8)),
        "epoch": pa.array(np.full(len(rows), epoch, np.int32)),
    }
    names = NARROW_SCHEMA.names[READ_COLUMNS:]
    return pa.RecordBatch.from_arrays([*read, *(change[name] for name in names)], schema=NARROW_SCHEMA)
