"""The one rule for every cell: what a batch of events does to a cell, given what the cell already knows.

Pure, on arrays, one entry per cell. `fold` reduces a batch to at most three events per cell, `resolve` decides
under the row's lock what is written. A version is (epoch, lsn); it is recorded for updates and deletes only,
because commit order per source row is change-LSN order, and a created or copied value may only fill a hole:

===================  ==============================================  ==========================================
event                applies when                                    effect
===================  ==============================================  ==========================================
create at e          cell IS NULL, and no version >= e               set
update at e          no version >= e                                 set, record e
delete at e          no version >= e                                 set NULL, record e
read (history)       cell IS NULL, and no version at all             set
===================  ==============================================  ==========================================

With `ignore_deletes`, a delete records its version but keeps the value, and a create above a recorded delete
replaces the value (recording its own version "c", so that its replay writes nothing).

So does a create above a correction: there was no sample when it was made, for a delete would have left its version
in between, and what the source does later wins.

A batch is folded to three steps per cell, applied in this order, each under its own condition: *assign*, *fill*,
*mark*. Folding to the last event alone would be wrong: a delete before a re-insert has to leave its version.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from widetable.cells import BoolArray, Events, IntArray
from widetable.narrow import KIND, Op

NONE: Final = -1
"""Stands for "no event" in arrays of event indices."""

KINDS: Final = ("", "u", "d", "s", "k", "c", "o")
"""Letters of recorded versions by code; 0 is "no version"."""
KIND_OF_OP: Final = np.array([KINDS.index({**KIND, Op.CREATE: "c"}.get(op, "")) for op in Op], np.int8)
"""What an op leaves where it records its version; of a create, only one that replaces a value does."""
KIND_DELETE: Final = KINDS.index("d")
KIND_MISFIT: Final = KINDS.index("o")
IMPORTED: Final = (KINDS.index("k"), KIND_MISFIT)
"""A correction, or one whose value stands in overflow: no other misfit has a create above it but for a gap."""


class Mode(IntEnum):
    """What is written to a cell."""

    NOTHING = 0
    FILL = 1  # set if NULL, record a version if there is one to record
    SET = 2  # set whatever it holds, record a version
    RECORD = 3  # keep the value, record a version if there is one to record; the row is made if it is missing


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """The events of a batch that matter, one entry per cell; event indices, `NONE` where there is none.

    `assign` is the last versioned event, `fill` the last create above it, or a read where there is none. With
    `ignore_deletes`, `mark` is the last delete if it is above `assign`, and a create above a delete of the same
    batch assigns.
    """

    row: IntArray
    channel: IntArray
    assign: IntArray
    fill: IntArray
    mark: IntArray

    def __len__(self) -> int:
        """Number of distinct cells."""
        return len(self.row)

    def take(self, chosen: BoolArray | IntArray) -> Folded:
        """The chosen cells only."""
        return Folded(
            self.row[chosen], self.channel[chosen], self.assign[chosen], self.fill[chosen], self.mark[chosen]
        )

    def event_count(self) -> int:
        """Number of events that survived the fold."""
        return int(sum(np.count_nonzero(part != NONE) for part in (self.assign, self.fill, self.mark)))


@dataclass(frozen=True, slots=True, eq=False)
class Versions:
    """What cells have recorded, one entry per cell; epoch 0 where nothing was."""

    epoch: IntArray
    lsn: IntArray
    kind: npt.NDArray[np.int8]

    @classmethod
    def absent(cls, cells: int) -> Versions:
        """No cell has a version."""
        return cls(np.zeros(cells, np.int64), np.zeros(cells, np.int64), np.zeros(cells, np.int8))


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """What to write, one entry per cell: mode, the event whose value is written, the version recorded."""

    mode: npt.NDArray[np.int8]
    value: IntArray  # event index, NONE for NULL
    version: IntArray  # event index whose (epoch, lsn) is recorded, NONE for none
    kind: npt.NDArray[np.int8]
    superseded: int  # events outranked by what the cells knew


def fold(events: Events, *, ignore_deletes: bool = False) -> Folded:
    """Reduce a batch to its decisive events per cell.

    By version rather than by position, so that a replayed suffix can't undo a newer event.
    """
    key = events.row * len(events.channels) + events.channel
    versioned = events.op >= Op.UPDATE
    if not versioned.any() and not _has_duplicates(key):
        none = np.full(len(key), NONE, np.int64)
        return Folded(events.row, events.channel, none, np.arange(len(key)), none)
    cells, cell = np.unique(key, return_inverse=True)
    marking = np.zeros(len(key), bool)
    if ignore_deletes:
        marking = events.op == Op.DELETE
        versioned &= ~marking
        versioned |= _reborn(events, cell, _last(events, cell, len(cells), versioned), marking)
    assign = _last(events, cell, len(cells), versioned)
    fill = _last(events, cell, len(cells), ~versioned & ~marking)
    mark = _last(events, cell, len(cells), marking)
    fill = np.where(_follows(events, fill, assign), fill, NONE)
    mark = np.where(_follows(events, mark, assign), mark, NONE)
    width = max(len(events.channels), 1)
    return Folded(cells // width, cells % width, assign, fill, mark)


def _has_duplicates(key: IntArray) -> bool:
    ordered = np.sort(key)
    return bool((ordered[1:] == ordered[:-1]).any())


def _reborn(events: Events, cell: IntArray, assign: IntArray, deleted: BoolArray) -> BoolArray:
    """Creates above a delete of the same batch that is above `assign`: whatever the cell held, they replace it."""
    deleted = deleted & _follows(events, np.arange(len(cell)), assign[cell])
    first = _last(events, cell, len(assign), deleted, sign=-1)[cell]
    above = _newer(events.epoch, events.lsn, events.epoch[first], events.lsn[first])
    reborn: BoolArray = (events.op == Op.CREATE) & (first != NONE) & above
    return reborn


def _last(events: Events, cell: IntArray, cells: int, among: BoolArray, sign: int = 1) -> IntArray:
    """Per cell, the event with the highest (op is not a read, epoch, lsn, position) among the chosen ones."""
    chosen = np.flatnonzero(among)
    is_read = events.op[chosen] == Op.READ
    order = np.lexsort((chosen, sign * events.lsn[chosen], sign * events.epoch[chosen], ~is_read))
    last = np.full(cells, NONE, np.int64)
    last[cell[chosen[order]]] = chosen[order]  # the last assignment to an index wins
    return last


def _follows(events: Events, index: IntArray, assign: IntArray) -> BoolArray:
    """Events that the batch's own assignment doesn't outrank, whatever the cell holds; a read always yields."""
    newer = _newer(events.epoch[index], events.lsn[index], events.epoch[assign], events.lsn[assign])
    follows: BoolArray = (assign == NONE) | (newer & (events.op[index] != Op.READ))
    return follows


def resolve(folded: Folded, events: Events, current: Versions, *, ignore_deletes: bool = False) -> Resolved:
    """Decide each cell under its row's lock; `current` is what the rows have recorded."""
    assign_ok = _outranks(events, folded.assign, current)
    known = _after(events, folded.assign, assign_ok, current)
    fill_ok = _outranks(events, folded.fill, known)
    fill_ok &= (events.op[folded.fill] != Op.READ) | (known.epoch == 0)
    replaceable = np.isin(known.kind, IMPORTED) | ((known.kind == KIND_DELETE) & ignore_deletes)
    replaces = fill_ok & replaceable & (events.op[folded.fill] == Op.CREATE)
    mark_ok = _outranks(events, folded.mark, known)

    refills = fill_ok & assign_ok & events.empty[folded.assign]
    mode = np.select(
        [assign_ok | replaces, fill_ok, mark_ok], [Mode.SET, Mode.FILL, Mode.RECORD], Mode.NOTHING
    ).astype(np.int8)
    used_fill = replaces | refills | (mode == Mode.FILL)
    value = np.select([used_fill, assign_ok], [folded.fill, folded.assign], NONE)
    version = np.select([mark_ok, replaces, assign_ok], [folded.mark, folded.fill, folded.assign], NONE)
    kind = np.where(version != NONE, KIND_OF_OP[events.op[version]], 0).astype(np.int8)
    used = used_fill.sum() + assign_ok.sum() + mark_ok.sum()
    return Resolved(mode, value, version, kind, int(folded.event_count() - used))


def _outranks(events: Events, index: IntArray, known: Versions) -> BoolArray:
    newer = _newer(events.epoch[index], events.lsn[index], known.epoch, known.lsn)
    outranks: BoolArray = (index != NONE) & (newer | (known.epoch == 0))
    return outranks


def _newer(epoch: IntArray, lsn: IntArray, than_epoch: IntArray, than_lsn: IntArray) -> BoolArray:
    """(epoch, lsn) > (than_epoch, than_lsn), entry by entry."""
    newer: BoolArray = (epoch > than_epoch) | ((epoch == than_epoch) & (lsn > than_lsn))
    return newer


def _after(events: Events, index: IntArray, applied: BoolArray, known: Versions) -> Versions:
    """The cells' versions once the applied events have recorded theirs."""
    return Versions(
        np.where(applied, events.epoch[index], known.epoch),
        np.where(applied, events.lsn[index], known.lsn),
        np.where(applied, KIND_OF_OP[events.op[index]], known.kind),
    )
