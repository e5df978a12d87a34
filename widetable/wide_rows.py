"""Wide rows in PostgreSQL: rows are locked and looked at, then new ones are copied in and others merged.

In: cells with their places and what was resolved for them. Out: rows in the wide tables, in the caller's
transaction. New rows go by COPY straight into their table; existing ones by COPY into a staging table per
shape and a prepared merge. Places are visited by table name and moment: the lock order of all writers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import psycopg

from widetable.cells import BoolArray, IntArray
from widetable.copy_data import Writing
from widetable.layout import Layout, Shape, WideTable
from widetable.pivot import chunks, moment_text
from widetable.places import Places, WideCells
from widetable.postgres import Connection
from widetable.rule import KINDS, Versions
from widetable.wide_statements import (
    STAGE_FIELDS,
    TableStatements,
    copy_stage,
    create_stage,
    merge_fill,
    merge_into,
    merge_set,
    stage_name,
    table_statements,
)

Statement = Literal["merge_fill", "merge_set"]

SPARSE_COLUMNS: Final = 64
"""Up to so many columns a merge names only those: late and corrected cells touch few of a table's hundreds."""
MAX_PREPARED: Final = 1_000
"""Prepared statements a session keeps; merges are prepared for tables that need one, not for all."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What locked rows hold: existence per place, recorded versions per cell."""

    exists: BoolArray
    versions: Versions


class WideRows:
    """A session's access to the wide tables of one layout."""

    def __init__(self, conn: Connection, layout: Layout) -> None:
        self._conn = conn
        self._cursor = psycopg.RawCursor(conn)
        self._layout = layout
        self._statements: dict[str, TableStatements] = {}
        self._full_merges: dict[tuple[Statement, int], str] = {}
        self._job = 0
        conn.prepared_max = MAX_PREPARED

    def prepare(self) -> None:
        """Create the staging tables (outside any transaction); those of an attempt that failed are replaced."""
        self.drop()
        for shape in self._layout.shapes:
            table = next(t for t in self._layout.tables.values() if t.shape == shape.number)
            self._conn.execute(create_stage(shape, self._layout.version, table))

    def drop(self) -> None:
        """Drop the staging tables and, with them, the prepared statements, before another layout is loaded."""
        for shape in self._layout.shapes:
            self._conn.execute(
                psycopg.sql.SQL("DROP TABLE IF EXISTS {}").format(stage_name(shape, self._layout.version))
            )
        self._conn.execute("DEALLOCATE ALL")

    # -- look --------------------------------------------------------------------------------------------

    def lock(self, cells: WideCells) -> Known:
        """Lock the rows that exist, in key order, and read the versions they have recorded."""
        places = cells.places
        exists, versioned = np.zeros(len(places), bool), np.zeros(len(places), bool)
        spans = places.spans(np.arange(len(places)))
        for (_, part), found in zip(spans, self._query_all("lock_rows", places, spans), strict=True):
            for index, has_versions in found:
                exists[part[index]], versioned[part[index]] = True, has_versions
        return Known(exists, self._read_versions(cells, np.flatnonzero(versioned)))

    def _query_all(
        self, statement: str, places: Places, spans: list[tuple[WideTable, IntArray]]
    ) -> list[list[tuple[Any, ...]]]:
        """Run one statement per table, all in one round trip."""
        cursors = []
        with self._conn.pipeline():
            for table, part in spans:
                query = getattr(self._table(table), statement)
                cursor = psycopg.RawCursor(self._conn)
                cursors.append(cursor.execute(query, [_moment_array(places.moment[part])], prepare=True))
        return [cursor.fetchall() for cursor in cursors]

    def _read_versions(self, cells: WideCells, chosen: IntArray) -> Versions:
        """The versions of the batch's cells, from the `_x` of the chosen places."""
        versions = Versions.absent(len(cells))
        if not len(chosen):
            return versions
        spans = cells.places.spans(chosen)
        found = self._query_all("read_versions", cells.places, spans)
        entries = [
            (int(part[index]), ordinal, epoch, lsn, KINDS.index(kind))
            for (_, part), rows in zip(spans, found, strict=True)
            for index, ordinal, epoch, lsn, kind in rows
        ]
        width = len(self._layout.column_type)
        entry = np.array(entries, np.int64).reshape(-1, 5)
        key = entry[:, 0] * width + entry[:, 1]
        order = np.argsort(key)
        key, entry = key[order], entry[order]
        wanted = cells.place * width + cells.ordinal
        at = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
        hit = np.flatnonzero(key[at] == wanted) if len(key) else np.zeros(0, np.int64)
        versions.epoch[hit], versions.lsn[hit] = entry[at[hit], 2], entry[at[hit], 3]
        versions.kind[hit] = entry[at[hit], 4]
        return versions

    # -- write -------------------------------------------------------------------------------------------

    def insert(self, batch: Writing, chosen: IntArray) -> int:
        """COPY new rows (ascending places that don't exist) into their tables; returns their number.

        Raises:
            psycopg.errors.UniqueViolation: another writer made one of them since they were looked up.
            psycopg.errors.ProgramLimitExceeded: a row doesn't fit a page.
        """
        for start, stop in chunks(len(chosen), self._widest()):
            part = chosen[start:stop]
            jobs = [job for shape in self._layout.shapes for job in batch.new_rows(shape, part)]
            for job in sorted(jobs, key=lambda job: job.table.name):
                self._copy(self._table(job.table).copy_rows, job.data)
        return len(chosen)

    def merge(self, batch: Writing, chosen: IntArray) -> int:
        """Merge existing rows (ascending, locked places) with their tables; returns the rows rewritten."""
        versioned = batch.versioned_places()
        written = 0
        for start, stop in chunks(len(chosen), self._widest()):
            part = chosen[start:stop]
            written += self._merge(batch, "merge_fill", part[~versioned[part]])
            written += self._merge(batch, "merge_set", part[versioned[part]])
        return written

    def _merge(self, batch: Writing, statement: Statement, rows: IntArray) -> int:
        written = 0
        for shape in self._layout.shapes:
            jobs, data = batch.staged_rows(shape, rows, self._job + 1)
            if not jobs:
                continue
            self._job += len(jobs)
            self._copy(copy_stage(shape, self._layout.version).as_string(), data)
            merge, prepare = self._merge_of(statement, shape, batch.ordinals(shape, rows))
            for job in jobs:
                query = merge_into(job.table, merge)
                written += self._cursor.execute(query, [job.key], prepare=prepare).rowcount
        return written

    def _merge_of(self, statement: Statement, shape: Shape, ordinals: IntArray) -> tuple[str, bool]:
        """Few columns: planned anew each time, which is cheap; many: planned once, for all columns."""
        make = merge_fill if statement == "merge_fill" else merge_set
        if len(ordinals) <= SPARSE_COLUMNS:
            return make(shape, self._layout.version, shape.columns_of(ordinals)), False
        key = (statement, shape.number)
        if key not in self._full_merges:
            self._full_merges[key] = make(shape, self._layout.version, shape.channel_columns)
        return self._full_merges[key], True

    def _copy(self, query: str, data: memoryview) -> None:
        with self._cursor.copy(query.encode()) as copy:
            copy.write(data)

    def _table(self, table: WideTable) -> TableStatements:
        if table.name not in self._statements:
            self._statements[table.name] = table_statements(table)
        return self._statements[table.name]

    def _widest(self) -> int:
        return max(len(shape.columns) for shape in self._layout.shapes) + STAGE_FIELDS


def _moment_array(moment_us: IntArray) -> str:
    """Moments as the text of a PostgreSQL array."""
    return '{"' + '","'.join(moment_text(moment_us).to_pylist()) + '"}'
