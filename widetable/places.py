"""Where cells go: the physical wide rows that a batch touches, and each cell's column in them. Pure.

A *place* is one row of one wide table: (table, moment). Places are ordered by table name and moment, which is
the lock order that every writer keeps, and cells of one table lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from widetable.cells import BoolArray, Events, IntArray, distinct
from widetable.layout import Layout, Shape, WideTable
from widetable.rule import Folded


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The wide rows of a batch; entry i is row `moment[i]` of `tables[table[i]]`."""

    tables: tuple[WideTable, ...]  # by name
    table: IntArray
    moment: IntArray  # microseconds since 1970
    row: IntArray  # index into the batch's `Rows`

    def __len__(self) -> int:
        """Number of wide rows."""
        return len(self.table)

    def spans(self, chosen: IntArray) -> list[tuple[WideTable, IntArray]]:
        """The chosen (ascending) places, table by table."""
        cuts = np.flatnonzero(np.diff(self.table[chosen])) + 1
        return [(self.tables[self.table[part[0]]], part) for part in np.split(chosen, cuts) if len(part)]


@dataclass(frozen=True, slots=True, eq=False)
class WideCells:
    """The cells of a batch that have a column: which place each belongs to, and under which ordinal."""

    folded: Folded
    places: Places
    place: IntArray
    ordinal: IntArray

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.place)

    def only(self, chosen: IntArray) -> WideCells:
        """The cells of the chosen (ascending) places, renumbered."""
        number = np.full(len(self.places), -1, np.int64)
        number[chosen] = np.arange(len(chosen))
        kept = number[self.place] >= 0
        places = Places(
            self.places.tables, self.places.table[chosen], self.places.moment[chosen], self.places.row[chosen]
        )
        return WideCells(self.folded.take(kept), places, number[self.place[kept]], self.ordinal[kept])


def has_column(folded: Folded, events: Events, layout: Layout) -> BoolArray:
    """Which cells have a live column in a live ship's table; the others go to overflow."""
    known = layout.ordinals(events.channels)[folded.channel] >= 0
    return known & layout.has_ship(events.rows.ships)[events.rows.ship[folded.row]]


def place_cells(folded: Folded, events: Events, layout: Layout) -> WideCells:
    """Number the wide rows that the cells (all of which have a column) belong to."""
    ordinal = layout.ordinals(events.channels)[folded.channel]
    tables = _tables_of(events, layout)
    number = {(table.ship_id, table.table_no): i for i, table in enumerate(tables)}
    lookup = np.full((len(events.rows.ships), int(layout.table_no.max()) + 1), -1, np.int64)
    for (ship_id, table_no), i in number.items():
        lookup[events.rows.ships.index(ship_id), table_no] = i
    table = lookup[events.rows.ship[folded.row], layout.table_no[ordinal]]
    # Rows ascend by ship and moment, so within one table the row number orders the moments.
    present, place = distinct(table * len(events.rows) + folded.row, len(tables) * len(events.rows))
    row = present % max(len(events.rows), 1)
    places = Places(tables, present // max(len(events.rows), 1), events.rows.moment[row], row)
    return WideCells(folded, places, place, ordinal)


def _tables_of(events: Events, layout: Layout) -> tuple[WideTable, ...]:
    ships = set(events.rows.ships)
    return tuple(sorted((t for t in layout.tables.values() if t.ship_id in ships), key=lambda t: t.name))


def slots(cells: WideCells, chosen: IntArray, shape: Shape) -> IntArray:
    """The physical column of each chosen cell."""
    return shape.slot[cells.ordinal[chosen]]
