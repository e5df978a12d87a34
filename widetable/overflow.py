"""Overflow: cells that have no column (yet), whose value doesn't fit, or whose row is too big for a page.

An overflow row obeys the same rule as a wide cell, with its own version. Cells arrive folded and are applied
in up to three steps (assign, fill, mark), each under its own condition, in the caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from widetable.cells import Events, IntArray
from widetable.pivot import NULL_TEXT, moment_text
from widetable.postgres import Connection, fetch_one
from widetable.rule import KIND_OF_OP, KINDS, NONE, Folded
from widetable.statements import load_statements
from widetable.values import copy_escape

SQL: Final = load_statements(files("widetable") / "sql" / "overflow.sql")
ASSIGN, FILL, MARK = range(3)


@dataclass(frozen=True, slots=True, eq=False)
class Overflowing:
    """Folded cells on their way to overflow, each with the reason why; arrays of equal length."""

    folded: Folded
    reason: pa.StringArray


class Overflow:
    """Writes `overflow_cell` in the caller's transaction; `prepare` once per session."""

    def __init__(self, conn: Connection, *, ignore_deletes: bool) -> None:
        self._conn = conn
        self._ignore_deletes = ignore_deletes
        self._job = 0

    def prepare(self) -> None:
        """Create the session's staging table (outside any transaction)."""
        self._conn.execute(SQL["create_stage"])

    def store(self, events: Events, cells: Overflowing) -> None:
        """Apply the cells under the rule; rows are made and locked in key order, so that writers don't deadlock."""
        folded = cells.folded
        steps = [np.flatnonzero(part != NONE) for part in (folded.assign, folded.fill, folded.mark)]
        step = np.repeat([ASSIGN, FILL, MARK], [len(chosen) for chosen in steps])
        if not len(step):
            return
        index = np.concatenate(
            [folded.assign[steps[ASSIGN]], folded.fill[steps[FILL]], folded.mark[steps[MARK]]]
        )
        self._stage(events, index, step, cells.reason.take(pa.array(np.concatenate(steps))))
        # Insert first: it waits for another writer's row, which the others then see.
        if self._conn.execute(SQL["insert"], [self._job]).rowcount == len(step):
            return
        self._conn.execute(SQL["lock"], [self._job])
        for number in np.unique(step):
            parts = {"job": self._job, "step": int(number), "ignore_deletes": self._ignore_deletes}
            replaced = ["k", "d"] if self._ignore_deletes else ["k"]
            self._conn.execute(SQL["update"], parts | {"replaced": replaced})

    def forget(self, events: Events, index: IntArray) -> None:
        """Remove the overflow rows of cells (named by one of their events each) that now stand in a column."""
        if not len(index) or not fetch_one(self._conn, SQL["any"])[0]:
            return
        self._stage(events, index, np.full(len(index), ASSIGN), pa.array([""] * len(index)))
        self._conn.execute(SQL["lock"], [self._job])
        self._conn.execute(SQL["delete"], [self._job])

    def _stage(self, events: Events, index: IntArray, step: IntArray, reason: pa.StringArray) -> None:
        """COPY the events to the staging table under a job number of their own."""
        self._job += 1
        with self._conn.cursor().copy(SQL["copy_stage"]) as copy:
            copy.write(stage_text(events, index, step, reason, self._job))


def stage_text(events: Events, index: IntArray, step: IntArray, reason: pa.StringArray, job: int) -> str:
    """COPY text of the staging table, one line per event index; a fill leaves no kind."""
    rows, row = events.rows, events.row[index]
    ships = copy_escape(pa.array(rows.ships, pa.string())).take(pa.array(rows.ship[row]))
    channels = copy_escape(pa.array(events.channels, pa.string())).take(pa.array(events.channel[index]))
    chosen = pa.array(index)
    kinds = pa.array([kind or None for kind in KINDS], pa.string())
    fields = [
        pa.array(np.full(len(index), job)).cast(pa.string()),
        pa.array(step).cast(pa.string()),
        ships,
        moment_text(rows.moment[row]),
        channels,
        copy_escape(events.value.take(chosen)),
        copy_escape(events.value_format.take(chosen)),
        pa.array(events.op[index]).cast(pa.string()),
        pa.array(events.epoch[index]).cast(pa.string()),
        pa.array(events.lsn[index]).cast(pa.string()),
        kinds.take(pa.array(np.where(step == FILL, 0, KIND_OF_OP[events.op[index]]))),
        reason,
    ]
    joined = pc.binary_join_element_wise(*fields, "\t", null_handling="replace", null_replacement=NULL_TEXT)
    return "\n".join(joined.to_pylist()) + "\n"
