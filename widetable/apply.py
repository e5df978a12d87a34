"""`NarrowBatch` -> wide tables: the one way in which samples are written, live and from history.

In: one batch of samples and the dead cells that came with it. Out: wide rows, overflow and dead cells, in the
caller's transaction, together with the caller's own ledger row: all of it is there, or none.

The order inside the transaction, which is also the lock order of every writer:

1. the caller's ledger row (before `begin`);
2. `begin`: the layout lock, shared, and the layout's version;
3. `apply`: existing rows are locked by table name and moment, and what they have recorded is read;
4. each cell is resolved under the rule; new rows are copied, others merged;
5. overflow and dead cells; then the caller commits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import psycopg
import pyarrow as pa

from widetable.applied import Applied
from widetable.cells import Events, read_events
from widetable.copy_data import Writing
from widetable.dead_cells import Origin, store_dead_cells
from widetable.errors import LayoutChangedError, RetryableError
from widetable.layout import Layout, layout_change_since, load_layout
from widetable.layout_lock import lock_layout_shared
from widetable.misfits import void_misfits
from widetable.narrow import DeadCell
from widetable.overflow import Overflow, Overflowing
from widetable.places import WideCells, has_column, place_cells
from widetable.postgres import Connection
from widetable.rule import Folded, Mode, fold, resolve
from widetable.values import settle
from widetable.wide_rows import WideRows

MAX_RACES: Final = 10
"""Rounds of "somebody inserted the row meanwhile" before the batch is given back for a retry."""

__all__ = ["Applied", "Origin", "Writer"]


@dataclass(frozen=True, slots=True)
class Session:
    """What a session has prepared for one layout."""

    layout: Layout
    wide: WideRows
    overflow: Overflow


class Writer:
    """Applies batches on one session; `load` once, then ``begin`` and ``apply`` in each transaction."""

    def __init__(self, conn: Connection) -> None:
        """`conn` is in autocommit mode, with the control schema on its search path."""
        self._conn = conn
        self._session: Session | None = None

    @property
    def layout(self) -> Layout:
        """The layout that batches are written by."""
        return self._loaded.layout

    @property
    def _loaded(self) -> Session:
        if self._session is None:
            raise LayoutChangedError("no layout loaded yet")
        return self._session

    def load(self) -> None:
        """Read the layout and prepare the session for it; outside any transaction.

        Raises:
            ConfigurationError: no layout, or tables that do not match it.
        """
        if self._session is not None:
            self._session.wide.drop()
            self._session = None
        # Plans are kept; one made while a table was empty would scan it from end to end for ever.
        self._conn.execute("SET enable_seqscan = off")
        layout = load_layout(self._conn)
        wide = WideRows(self._conn, layout)
        wide.prepare()
        overflow = Overflow(self._conn, ignore_deletes=layout.ignore_deletes)
        overflow.prepare()
        self._session = Session(layout, wide, overflow)

    def begin(self) -> None:
        """Take the shared layout lock and make sure that the cached layout is the current one.

        Raises:
            LayoutChangedError: roll back, `load`, and run the transaction again.
        """
        lock_layout_shared(self._conn)
        if change := layout_change_since(self._conn, self.layout):
            raise LayoutChangedError(change)

    def apply(self, batch: pa.RecordBatch, dead: list[DeadCell], origin: Origin) -> Applied:
        """Write a batch of `NARROW_SCHEMA` in the current transaction.

        Returns:
            Counts in which every event of the batch appears exactly once.

        Raises:
            RetryableError: races, outages; roll back and try again.
        """
        settled = settle(batch)
        dead_cells = [*dead, *settled.dead_cells(batch)]
        applied = Applied(
            events=batch.num_rows,
            dead=int(np.count_nonzero(settled.dead)),
            format_mismatch=settled.mismatch_count,
        )
        if applied.dead:
            living = pa.array(~settled.dead)
            batch, value = batch.filter(living), settled.value.filter(living)
        else:
            value = settled.value
        if batch.num_rows:
            applied += self._write(read_events(batch, value))
        store_dead_cells(self._conn, origin, dead_cells)
        return applied

    def _write(self, events: Events) -> Applied:
        """Fold, then split the cells into those with a column and the others."""
        folded = fold(events, ignore_deletes=self.layout.ignore_deletes)
        applied = Applied(superseded=len(events) - folded.event_count())
        wide = has_column(folded, events, self.layout)
        if wide.all():
            return applied + self._write_wide(events, folded)
        if wide.any():
            applied += self._write_wide(events, folded.take(wide))
        return applied + self._write_overflow(events, folded.take(~wide))

    # -- cells without a column ---------------------------------------------------------------------------

    def _write_overflow(self, events: Events, cells: Folded) -> Applied:
        self._loaded.overflow.store(events, Overflowing(cells, self._reasons(events, cells)))
        return Applied(overflow=cells.event_count())

    def _reasons(self, events: Events, cells: Folded) -> pa.StringArray:
        """Why each cell has no column: its ship has no tables, its channel is unknown, or not drained yet."""
        has_ship = self.layout.has_ship(events.rows.ships)[events.rows.ship[cells.row]]
        pending = np.array([channel in self.layout.pending for channel in events.channels], bool)[
            cells.channel
        ]
        return pa.array(np.where(~has_ship, "no_ship", np.where(pending, "pending", "no_channel")))

    # -- cells with a column ------------------------------------------------------------------------------

    def _write_wide(self, events: Events, folded: Folded) -> Applied:
        return self._write_places(events, place_cells(folded, events, self.layout))

    def _write_places(self, events: Events, cells: WideCells, *, row_too_big: bool = False) -> Applied:
        for _ in range(MAX_RACES):
            try:
                with self._conn.transaction():  # a savepoint: only for the race of two inserts
                    return self._resolve_and_write(events, cells, row_too_big=row_too_big)
            except psycopg.errors.UniqueViolation:
                continue  # the other writer has committed: lock its row and merge
            except psycopg.errors.ProgramLimitExceeded:
                return self._write_parts(events, cells, row_too_big=row_too_big)
        raise RetryableError(
            f"lost {MAX_RACES} races for the same new rows; another writer is on the same moments"
        )

    def _resolve_and_write(self, events: Events, cells: WideCells, *, row_too_big: bool) -> Applied:
        """Lock the rows, resolve the cells under what they have recorded, and write."""
        layout, wide, overflow = self._loaded.layout, self._loaded.wide, self._loaded.overflow
        known = wide.lock(cells)
        resolved = resolve(cells.folded, events, known.versions, ignore_deletes=layout.ignore_deletes)
        resolved, misfits = void_misfits(events, cells, resolved, layout, row_too_big=row_too_big)
        writing = Writing(events, cells, resolved)
        touched = writing.touched_places()
        rows_new = wide.insert(writing, np.flatnonzero(touched & ~known.exists))
        rows_merged = wide.merge(writing, np.flatnonzero(touched & known.exists))
        # What is set in its column, be it NULL, takes the place of what overflow held for the cell.
        overflow.forget(events, resolved.version[resolved.mode == Mode.SET])
        overflow.store(events, misfits)
        diverted = misfits.folded.event_count()
        return Applied(
            applied=cells.folded.event_count() - resolved.superseded - diverted,
            superseded=resolved.superseded,
            overflow=diverted,
            rows_new=rows_new,
            rows_merged=rows_merged,
            cells_set=int(np.count_nonzero(resolved.mode == Mode.SET)),
            cells_written=int(np.count_nonzero(resolved.mode != Mode.NOTHING)),
        )

    def _write_parts(self, events: Events, cells: WideCells, *, row_too_big: bool) -> Applied:
        """Some row is too big for a page: find it by halving, write the others, divert the values of that one."""
        if row_too_big:
            return self._spill(events, cells)
        if len(cells.places) == 1:
            return self._write_places(events, cells, row_too_big=True)
        total = Applied()
        for half in np.array_split(np.arange(len(cells.places)), 2):
            total += self._write_places(events, cells.only(half))
        return total

    def _spill(self, events: Events, cells: WideCells) -> Applied:
        """The row is so full that not even `_x` finds room: all there is to know goes to overflow."""
        reason = pa.array(["row_too_big"] * len(cells))
        self._loaded.overflow.store(events, Overflowing(cells.folded, reason))
        return Applied(overflow=cells.folded.event_count())
