"""Values that their column or their row can't hold go to overflow instead; the column shows nothing wrong.

Pure. An update that doesn't fit sets its column NULL and records its version with kind "o": the older value
must not stay visible, and a replay of older events must not bring it back. A created or copied value that
doesn't fit leaves its column alone, but its row is made: it is where two writers of the cell meet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pyarrow as pa

from widetable.cells import BoolArray, Events, IntArray
from widetable.layout import Layout
from widetable.narrow import Op
from widetable.overflow import Overflowing
from widetable.places import WideCells
from widetable.rule import KIND_MISFIT, NONE, Folded, Mode, Resolved
from widetable.values import ColumnType, fits


def void_misfits(
    events: Events, cells: WideCells, resolved: Resolved, layout: Layout, *, row_too_big: bool = False
) -> tuple[Resolved, Overflowing]:
    """Take values that don't fit out of what is written to the columns; returns them for overflow.

    With `row_too_big` no value fits: what is left of the cells are NULLs and their versions.
    """
    misfit = _written(events, resolved) if row_too_big else _misfits(events, cells, resolved, layout)
    chosen = np.flatnonzero(misfit)
    if not len(chosen):
        return resolved, Overflowing(cells.folded.take(chosen), pa.array([], pa.string()))
    by_version = misfit & (resolved.mode == Mode.SET) & (resolved.value == resolved.version)
    voided = replace(
        resolved,
        mode=np.where(misfit & (resolved.mode == Mode.FILL), Mode.RECORD, resolved.mode).astype(np.int8),
        value=np.where(misfit, NONE, resolved.value),
        kind=np.where(by_version, KIND_MISFIT, resolved.kind).astype(np.int8),
    )
    reason = "row_too_big" if row_too_big else "does_not_fit"
    return voided, Overflowing(
        _only_event(cells.folded.take(chosen), events, resolved.value[chosen]),
        pa.array([reason] * len(chosen)),
    )


def _written(events: Events, resolved: Resolved) -> BoolArray:
    """Cells that a value, not NULL, is written to."""
    written: BoolArray = (resolved.value != NONE) & ~events.empty[resolved.value]
    return written


def _misfits(events: Events, cells: WideCells, resolved: Resolved, layout: Layout) -> BoolArray:
    """Cells whose value is written and doesn't go into its column exactly."""
    misfit = np.zeros(len(cells), bool)
    if not layout.typed:
        return misfit
    written = _written(events, resolved)
    types = np.array(layout.column_type)[cells.ordinal]
    for column_type in np.unique(types[written]):
        chosen = np.flatnonzero(written & (types == column_type))
        value = events.value.take(pa.array(resolved.value[chosen]))
        misfit[chosen] = ~fits(value, cast("ColumnType", str(column_type)))
    return misfit


def _only_event(folded: Folded, events: Events, event: IntArray) -> Folded:
    """The cells with that one event each; a create needs no version here, for the column's row has it."""
    versioned = (folded.assign == event) & (events.op[event] != Op.CREATE)
    none = np.full(len(folded), NONE, np.int64)
    return Folded(
        folded.row, folded.channel, np.where(versioned, event, NONE), np.where(versioned, NONE, event), none
    )
