"""Which row comes from which message: what a batch of changes is before its columns are copied.

In: the samples before and after each change, as Arrow structs. Out: `RowPlan`, the rows in the order of their
messages: one each, none where the message is no row, two where an update moved a sample to other coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc_consumer.envelope import Envelope
from cdc_consumer.events import FIRST_US, LAST_US
from widetable.arrays import Index, Mask, mask, numbers, valid
from widetable.narrow import Op

NAMES: Final = ("ship_id", "data_channel_id")


@dataclass(frozen=True, slots=True)
class Image:
    """The samples before or after the changes, one per message.

    Attributes:
        values: the struct as decoded.
        moment_us: created_time; 0 where there is none.
        present: where the sample is there with all its coordinates.
    """

    values: pa.StructArray
    moment_us: Index
    present: Mask

    @classmethod
    def of(cls, image: pa.StructArray, envelope: Envelope) -> Image:
        """Read one side of the changes."""
        present = valid(image)
        for name in (*NAMES, "created_time"):
            if image.field(name).null_count:
                present &= valid(image.field(name))
        moment = numbers(image.field("created_time"))
        if (ticks := envelope.microseconds_per_tick) > 1:
            moment = np.clip(moment, FIRST_US // ticks, LAST_US // ticks) * ticks
        return cls(image, moment, present)

    @property
    def ship(self) -> pa.StringArray:
        """The column ship_id."""
        return self.values.field("ship_id")

    @property
    def channel(self) -> pa.StringArray:
        """The column data_channel_id."""
        return self.values.field("data_channel_id")


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Which row comes from which message, and from which side of it.

    Attributes:
        message: index of the message.
        op: code of `Op`.
        from_before: the row is a delete of what the message shows as `before`.
        whole: each message is one row, its `after`; then columns are used as they are.
    """

    message: Index
    op: npt.NDArray[np.int8]
    from_before: Mask
    whole: bool

    @classmethod
    def of(cls, ops: Index, fine: Mask, moved: Mask) -> RowPlan:
        """One row for each fine message; two for a moved one: the delete, then the create."""
        message = np.repeat(np.flatnonzero(fine), 1 + moved[fine].astype(np.int64))
        op = ops[message].astype(np.int8)
        first = np.diff(message, prepend=-1) != 0
        op[moved[message]] = Op.CREATE
        op[moved[message] & first] = Op.DELETE
        from_before = op == Op.DELETE
        return cls(message, op, from_before, bool(fine.all() and not moved.any() and not from_before.any()))

    def where(self, kept: Mask) -> RowPlan:
        """Only the rows that are kept."""
        if kept.all():
            return self
        return RowPlan(self.message[kept], self.op[kept], self.from_before[kept], whole=False)

    def coordinate(self, before: pa.Array, after: pa.Array) -> pa.Array:
        """A column that deletes take from `before` and others from `after`."""
        if self.whole:
            return after
        message = pa.array(self.message)
        if not self.from_before.any():
            return after.take(message)
        return pc.if_else(pa.array(self.from_before), before.take(message), after.take(message))

    def value(self, after: pa.Array) -> pa.Array:
        """A column that deletes don't have."""
        return after if self.whole else after.take(pa.array(self.message, mask=self.from_before))


def moved_samples(ops: Index, before: Image, after: Image) -> Mask:
    """The updates that gave a sample other coordinates."""
    moved: Mask = (ops == Op.UPDATE) & before.present & after.present
    both = np.flatnonzero(moved)
    if len(both):
        rows = pa.array(both)
        differs: Mask = before.moment_us[both] != after.moment_us[both]
        for name in NAMES:
            old, new = (image.values.field(name).take(rows) for image in (before, after))
            differs |= mask(pc.not_equal(old, new))
        moved[both] = differs
    return moved
