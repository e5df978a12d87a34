"""From lists of events to the product's arrays and back: each scenario is a cell of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tests.property.model.cell import Cell, Event
from widetable.cells import Events, Rows
from widetable.rule import KINDS, NONE, Folded, Mode, Resolved, Versions, fold, resolve


def events_of(batches: Sequence[Sequence[Event]], order: Sequence[int] | None = None) -> Events:
    """One batch that holds all events: those of `batches[i]` belong to cell i.

    Args:
        batches: the events of each cell, in arrival order.
        order: which cell each event of the batch comes from, to interleave the cells; cell by cell if None.
    """
    queues = [iter(batch) for batch in batches]
    cells = [i for i, batch in enumerate(batches) for _ in batch] if order is None else list(order)
    events = [next(queues[i]) for i in cells]
    value = pa.array([event.value for event in events], pa.string())
    count = len(batches)
    return Events(
        rows=Rows(("ship",), np.zeros(count, np.int64), np.arange(count)),
        row=np.array(cells, np.int64),
        channels=("channel",),
        channel=np.zeros(len(events), np.int64),
        value=value,
        empty=np.array([event.value is None for event in events], bool),
        value_format=pa.nulls(len(events), pa.string()),
        op=np.array([event.op for event in events], np.int8),
        epoch=np.array([event.version[0] for event in events], np.int64),
        lsn=np.array([event.version[1] for event in events], np.int64),
    )


def apply_batches(
    before: Sequence[Cell],
    batches: Sequence[Sequence[Event]],
    *,
    ignore_deletes: bool = False,
    order: Sequence[int] | None = None,
) -> list[Cell]:
    """The cells after the product's `fold` and `resolve` took one batch, scenario by scenario."""
    events = events_of(batches, order)
    folded = fold(events, ignore_deletes=ignore_deletes)
    current = versions_of([before[row] for row in folded.row])
    resolved = resolve(folded, events, current, ignore_deletes=ignore_deletes)
    assert len(events) == _accounted(events, folded, resolved)
    after = list(before)
    for i, row in enumerate(folded.row.tolist()):
        after[row] = written(before[row], events, resolved, i)
    return after


def _accounted(events: Events, folded: Folded, resolved: Resolved) -> int:
    """Events that were folded, outranked or applied: all of them."""
    applied = folded.event_count() - resolved.superseded
    assert 0 <= applied <= folded.event_count()
    return (len(events) - folded.event_count()) + resolved.superseded + applied


def versions_of(cells: Sequence[Cell]) -> Versions:
    """What the cells have recorded, as `resolve` takes it."""
    known = [cell.version or (0, 0) for cell in cells]
    return Versions(
        np.array([epoch for epoch, _ in known], np.int64),
        np.array([lsn for _, lsn in known], np.int64),
        np.array([KINDS.index(cell.kind) for cell in cells], np.int8),
    )


def written(cell: Cell, events: Events, resolved: Resolved, i: int) -> Cell:
    """What the merge statements make of the cell that entry `i` of `resolved` is about."""
    mode, at, version = Mode(resolved.mode[i]), int(resolved.value[i]), int(resolved.version[i])
    value = None if at == NONE else events.value[at].as_py()
    if mode is Mode.SET or (mode is Mode.FILL and cell.value is None):
        cell = Cell(value, cell.version, cell.kind)
    if version == NONE:
        assert mode in {Mode.NOTHING, Mode.FILL}
        return cell
    recorded = (int(events.epoch[version]), int(events.lsn[version]))
    return Cell(cell.value, recorded, KINDS[resolved.kind[i]])
