"""`NarrowBatch` -> cells: which row and which channel each sample belongs to. Pure; no clock, no database.

In: one `NarrowBatch` with its values settled to one text each. Out: `Events`, plain arrays with one entry per
sample, and the `Rows` that they touch, ordered by ship and moment. No Python object is made per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

DENSE_ROWS_FACTOR: Final = 8
"""Row numbers come from counting over ships x moments while that grid is at most this many times the samples
(aligned telemetry); unaligned moments make the grid sparse, and sorting wins."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The wide rows of a batch, ascending by (ship, moment); one entry per row."""

    ships: tuple[str, ...]  # sorted
    ship: IntArray  # index into `ships`
    moment: IntArray  # microseconds since 1970

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.moment)


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """The samples of a batch as arrays; one entry per sample, in arrival order."""

    rows: Rows
    row: IntArray  # index into `rows`
    channels: tuple[str, ...]  # the batch's distinct channel ids, in order of appearance
    channel: IntArray  # index into `channels`
    value: pa.StringArray  # settled text, NULL for none
    empty: BoolArray  # value IS NULL
    value_format: pa.StringArray
    op: npt.NDArray[np.int8]
    epoch: IntArray
    lsn: IntArray

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.row)


def read_events(batch: pa.RecordBatch, value: pa.StringArray) -> Events:
    """Number the rows and channels of a `NarrowBatch`; `value` holds its settled texts."""
    rows, row = number_rows(batch.column("ship_id"), batch.column("created_time"))
    channels = _encode(batch.column("channel_id"))
    return Events(
        rows=rows,
        row=row,
        channels=tuple(channels.dictionary.to_pylist()),
        channel=channels.indices.to_numpy().astype(np.int64),
        value=value,
        empty=pc.is_null(value).to_numpy(zero_copy_only=False),
        value_format=batch.column("value_format"),
        op=batch.column("op").to_numpy(),
        epoch=batch.column("epoch").to_numpy().astype(np.int64),
        lsn=batch.column("lsn").to_numpy(),
    )


def number_rows(ship_id: pa.StringArray, created_time: pa.Int64Array) -> tuple[Rows, IntArray]:
    """The distinct (ship, moment) pairs in ascending order, and each sample's index into them."""
    ships = _encode(ship_id)
    names, rank = _sorted_names(ships.dictionary)
    ship = rank[ships.indices.to_numpy()]
    moments, moment = np.unique(created_time.to_numpy(), return_inverse=True)
    key = ship * len(moments) + moment
    present, row = distinct(key, len(names) * len(moments))
    return Rows(names, present // max(len(moments), 1), moments[present % max(len(moments), 1)]), row


def _encode(column: pa.StringArray) -> pa.DictionaryArray:
    return column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()


def _sorted_names(dictionary: pa.StringArray) -> tuple[tuple[str, ...], IntArray]:
    names = dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return tuple(names[i] for i in order), rank


def distinct(key: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """`np.unique` with inverse, by counting where the key space is dense."""
    if size > DENSE_ROWS_FACTOR * len(key):
        present, inverse = np.unique(key, return_inverse=True)
        return present, inverse
    number = np.zeros(size, np.int64)
    number[key] = 1
    present = np.flatnonzero(number)
    number[present] = np.arange(len(present))
    return present, number[key]
