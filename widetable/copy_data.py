"""The COPY data of a batch: resolved cells -> lines for new rows, and lines for the staging tables. Pure.

In: events, their places, and what was resolved for each cell. Out: one piece of COPY text per table (new
rows) or per shape (rows to merge, each line led by its job's key and the ordinals to overwrite).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from widetable.cells import BoolArray, Events, IntArray
from widetable.layout import Shape, WideTable
from widetable.pivot import Pool, buffer_slice, lines, moment_text, ordinal_set_text, version_text
from widetable.places import WideCells, slots
from widetable.rule import KINDS, NONE, Mode, Resolved
from widetable.values import copy_escape

LETTERS: Final = pa.array(KINDS, pa.string())


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One piece of COPY data: lines for one table, `key` for the staging table (0 for new rows)."""

    table: WideTable
    data: memoryview
    rows: int
    key: int = 0


class Writing:
    """A batch ready to be written: its texts in one pool, its cells with what was resolved for each."""

    def __init__(self, events: Events, cells: WideCells, resolved: Resolved) -> None:
        self._cells = cells
        self._places = cells.places
        self._resolved = resolved
        self._set = resolved.mode == Mode.SET
        self._versioned = resolved.version != NONE
        self._events = events
        self._pool = Pool.of(copy_escape(events.value).fill_null(""), moment_text(events.rows.moment))
        self._moment_base = 1 + len(events)
        empty = (resolved.value == NONE) | events.empty[resolved.value]
        self._text = np.where(empty, 0, resolved.value + 1)
        self._filled = (resolved.mode == Mode.FILL) | self._set

    def touched_places(self) -> BoolArray:
        """Which places have anything to write."""
        touched = np.zeros(len(self._places), bool)
        touched[self._cells.place[self._resolved.mode != Mode.NOTHING]] = True
        return touched

    def versioned_places(self) -> BoolArray:
        """Which places have a cell that records a version or overwrites."""
        versioned = np.zeros(len(self._places), bool)
        versioned[self._cells.place[self._versioned | self._set]] = True
        return versioned

    def new_rows(self, shape: Shape, chosen: IntArray) -> list[Job]:
        """COPY data of the chosen places that have this shape, one job per table."""
        rows = self._of_shape(shape, chosen)
        if not len(rows):
            return []
        text = self._lines(shape, rows, [])
        jobs, start = [], 0
        for table, part in self._places.spans(rows):
            jobs.append(Job(table, buffer_slice(text, start, start + len(part)), len(part)))
            start += len(part)
        return jobs

    def staged_rows(self, shape: Shape, chosen: IntArray, first_key: int) -> tuple[list[Job], memoryview]:
        """Staging data of the chosen places that have this shape: a key per table, and all lines together."""
        rows = self._of_shape(shape, chosen)
        spans = self._places.spans(rows)
        if not spans:
            return [], memoryview(b"")
        empty = memoryview(b"")
        jobs = [Job(table, empty, len(part), first_key + i) for i, (table, part) in enumerate(spans)]
        keys = np.repeat([job.key for job in jobs], [job.rows for job in jobs])
        text = self._lines(shape, rows, [pa.array(keys).cast(pa.string()), self._set_text(rows)])
        return jobs, buffer_slice(text, 0, len(rows))

    def ordinals(self, shape: Shape, chosen: IntArray) -> IntArray:
        """The channels that have something to write in the chosen places of this shape."""
        line = self._line_numbers(self._of_shape(shape, chosen))
        used = (line[self._cells.place] != NONE) & (self._resolved.mode != Mode.NOTHING)
        return np.unique(self._cells.ordinal[used])

    def _of_shape(self, shape: Shape, chosen: IntArray) -> IntArray:
        has_shape = np.array([table.shape == shape.number for table in self._places.tables], bool)
        of_shape: IntArray = chosen[has_shape[self._places.table[chosen]]]
        return of_shape

    def _lines(self, shape: Shape, rows: IntArray, lead: list[pa.StringArray]) -> pa.StringArray:
        """COPY lines of the rows: leading fields, then the table's columns in physical order."""
        line = self._line_numbers(rows)
        chosen = np.flatnonzero((line[self._cells.place] != NONE) & self._filled & (self._text != 0))
        count, first = np.arange(len(rows)), len(lead)
        extra, pool = self._version_lines(rows, line), self._pool
        base = len(pool.texts)
        pool = Pool(pa.concat_arrays([pool.texts, *lead, *([extra] if extra is not None else [])]))
        parts: list[tuple[IntArray, IntArray | int, IntArray]] = [
            (line[self._cells.place[chosen]], slots(self._cells, chosen, shape) + first, self._text[chosen]),
            (count, shape.moment_slot + first, self._moment_base + self._places.row[rows]),
            *((count, i, base + i * len(rows) + count) for i in range(first)),
        ]
        if extra is not None:
            has = np.flatnonzero(self.versioned_rows(rows))
            parts.append((has, shape.versions_slot + first, base + first * len(rows) + has))
        row = np.concatenate([part[0] for part in parts])
        slot = np.concatenate([np.broadcast_to(part[1], len(part[0])) for part in parts])
        text = np.concatenate([part[2] for part in parts])
        return lines(pool, row, slot, text, len(rows), len(shape.columns) + first)

    def versioned_rows(self, rows: IntArray) -> BoolArray:
        """Which of the rows record a version."""
        recorded = np.zeros(len(self._places), bool)
        recorded[self._cells.place[self._versioned]] = True
        return recorded[rows]

    def _line_numbers(self, rows: IntArray) -> IntArray:
        line = np.full(len(self._places), NONE, np.int64)
        line[rows] = np.arange(len(rows))
        return line

    def _version_lines(self, rows: IntArray, line: IntArray) -> pa.StringArray | None:
        """`_x` text per row; None where no row records anything."""
        chosen = np.flatnonzero(self._versioned & (line[self._cells.place] != NONE))
        if not len(chosen):
            return None
        version = self._resolved.version[chosen]
        letters = LETTERS.take(pa.array(self._resolved.kind[chosen]))
        return version_text(
            line[self._cells.place[chosen]],
            len(rows),
            self._cells.ordinal[chosen],
            self._events.epoch[version],
            self._events.lsn[version],
            letters,
        )

    def _set_text(self, rows: IntArray) -> pa.StringArray:
        """Ordinals to overwrite, per row."""
        line = self._line_numbers(rows)
        chosen = np.flatnonzero(self._set & (line[self._cells.place] != NONE))
        return ordinal_set_text(line[self._cells.place[chosen]], len(rows), self._cells.ordinal[chosen])
