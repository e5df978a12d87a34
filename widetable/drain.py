"""From overflow into the wide tables, for channels and ships that have got a place of their own.

In: overflow cells of one ship and some channels of one table. Out: the same cells in their columns, the
overflow rows gone, in the caller's transaction. Guarantee: a cell ends as if its events had met the column to
begin with.

* Cells without a version (created or copied only) may move at any time: whatever arrives for them later
  finds NULL filled, which is all that a create or copy wants, or outranks it.
* Cells with a version move last, in the transaction that makes their channel or ship live. Moved earlier, a
  delete would leave no trace in overflow, and a re-insert arriving there would look like an old copy.
* A value that its typed column would not give back stays, as `does_not_fit`; cells of a row that is too big
  for a page stay, as `row_too_big`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

import psycopg
from psycopg import sql

from widetable.postgres import Connection
from widetable.statements import load_statements
from widetable.wide_table import SQL_TYPE, Column

TEMPLATES: Final = load_statements(files("widetable") / "sql" / "drain.sql")
Which = Literal["early", "late"]
CHUNK_CELLS: Final = 5_000
"""About 0.1 s of work: that is how long writers wait for the layout lock."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A wide table of a ship, and those of its channels whose overflow cells are to move there."""

    ship_id: str
    schema: str
    table: str
    columns: tuple[Column, ...]


class Drain:
    """Moves the cells of one destination, in the caller's transaction, under the exclusive layout lock."""

    def __init__(self, conn: Connection, to: Destination, *, ignore_deletes: bool) -> None:
        self._conn = conn
        self._to = to
        self._settle_assignment = (
            "settle_assignment_ignoring_deletes" if ignore_deletes else "settle_assignment"
        )

    def fill(self, limit: int = CHUNK_CELLS) -> int:
        """Move up to `limit` cells without a version; returns how many, 0 once there is none left."""
        return self._move("early", self._fill, self._present("early", sql.Literal(limit)), limit)

    def finish(self) -> int:
        """Move all that is left; returns how many cells. What can't move is marked with the reason."""
        moved = self._all(self.fill)
        versioned = self._present("late", sql.SQL("ALL"))
        moved += self._all(lambda: self._move("late", self._settle, versioned, CHUNK_CELLS))
        self._conn.execute(self._composed("keep_misfits", "late", self._to.columns))
        return moved

    def _all(self, move: Callable[[], int]) -> int:
        moved = 0
        while chunk := move():
            moved += chunk
        return moved

    def _present(self, which: Which, limit: sql.Composable) -> list[Column]:
        """The columns that the next cells belong to: a statement names no others."""
        query = self._composed("present", which, self._to.columns, limit=limit)
        found = {channel_id for (channel_id,) in self._conn.execute(query)}
        return [column for column in self._to.columns if column.channel_id in found]

    def _move(
        self,
        which: Which,
        statement: Callable[[Sequence[Column], int], sql.Composed],
        columns: Sequence[Column],
        limit: int,
    ) -> int:
        """Move a chunk: fewer and fewer cells until no row is too big, or only that one is left."""
        while columns:
            try:
                with self._conn.transaction():
                    row = self._conn.execute(statement(columns, limit)).fetchone()
                    return int(row[0]) if row else 0
            except psycopg.errors.ProgramLimitExceeded:
                if limit == 1:
                    return self._conn.execute(self._composed("spill", which, columns)).rowcount
                limit //= 2
        return 0

    def _fill(self, columns: Sequence[Column], limit: int) -> sql.Composed:
        parts = [_column_parts(column) for column in columns]
        changes = [_template("fill_changes").format(**part) for part in parts]
        pairs = zip(parts, changes, strict=True)
        assignments = [_template("fill_assignment").format(**part, changes=change) for part, change in pairs]
        return self._composed(
            "fill",
            "early",
            columns,
            limit=sql.Literal(limit),
            columns=_comma(part["column"] for part in parts),
            values=_comma(_template("fill_value").format(**part) for part in parts),
            assignments=_comma(assignments),
            changes=sql.SQL(" OR ").join(changes),
        )

    def _settle(self, columns: Sequence[Column], limit: int) -> sql.Composed:
        parts = [_column_parts(column) for column in columns]
        ordinals = [str(column.ordinal) for column in columns]
        return self._composed(
            "settle",
            "late",
            columns,
            limit=sql.Literal(limit),
            ordinals=sql.SQL("{}::text[]").format(sql.Literal(ordinals)),
            columns=_comma(part["column"] for part in parts),
            values=_comma(_template("settle_value").format(**part) for part in parts),
            assignments=_comma(_template(self._settle_assignment).format(**part) for part in parts),
        )

    def _composed(
        self, name: str, which: Which, columns: Sequence[Column], /, **parts: sql.Composable
    ) -> sql.Composed:
        """A statement of drain.sql; it has no parameters, so a `%` in a name is no placeholder."""
        waiting, fits = _template("waiting"), _fits(columns)
        return _template(name).format(
            ship=sql.Literal(self._to.ship_id),
            table=sql.Identifier(self._to.schema, self._to.table),
            channels=_channels(columns),
            waiting=waiting,
            fits=fits,
            which=_template(which).format(waiting=waiting, fits=fits),
            **parts,
        )


def _template(name: str) -> sql.SQL:
    return sql.SQL(TEMPLATES[name])


def _comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _column_parts(column: Column) -> dict[str, sql.Composable]:
    return {
        "column": sql.Identifier(column.name),
        "channel": sql.Literal(column.channel_id),
        "ordinal": sql.Literal(str(column.ordinal)),
        "type": sql.SQL(SQL_TYPE[column.column_type]),
    }


def _channels(columns: Iterable[Column]) -> sql.Composed:
    return sql.SQL("{}::text[]").format(sql.Literal([column.channel_id for column in columns]))


def _fits(columns: Sequence[Column]) -> sql.Composed:
    """Whether a cell's column gives its value back as the same text; the rule of `values.fits`, in SQL."""
    branches = []
    for column_type, sql_type in SQL_TYPE.items():
        typed = [column for column in columns if column.column_type == column_type]
        if typed and column_type != "text":
            parts = {"channels": _channels(typed), "name": sql.Literal(sql_type), "type": sql.SQL(sql_type)}
            branches.append(_template("fits_type").format(**parts))
    return _template("fits").format(branches=sql.SQL(" ").join(branches))
