"""Cells -> COPY text: one line per wide row, one field per physical column. Pure.

All texts of a batch stand once in a pool; a line is a row of an index array into that pool, filled by one
scatter, and the lines of all rows are made by one `take` and one join. No per-column arrays, no per-cell
objects. The slices of the resulting buffer are the tables' COPY data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from widetable.arrays import text as constant
from widetable.cells import IntArray

MAX_SLOTS: Final = 2_000_000
"""Rows x columns pivoted at a time: bounds memory (about 40 MB) for samples at unaligned moments."""

NULL_TEXT: Final = "\\N"
NOTHING, TAB, END_OF_LINE, COMMA, QUOTE = map(constant, ("", "\t", "\n", ",", '"'))
LIST, LETTER, END_OF_LIST, NO_ORDINALS = map(constant, ('":[', ',"', '"]', "[]"))


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Texts that lines are made of; entry 0 is COPY's NULL, entry `1 + i` is text i."""

    texts: pa.StringArray

    @classmethod
    def of(cls, *parts: pa.StringArray) -> Pool:
        """A pool of the parts, one after the other; the texts are escaped and not NULL."""
        return cls(pa.concat_arrays([pa.array([NULL_TEXT], pa.string()), *parts]))


def lines(pool: Pool, row: IntArray, slot: IntArray, text: IntArray, rows: int, width: int) -> pa.StringArray:
    """`rows` COPY lines of `width` fields, newline included: field (row, slot) is `pool.texts[text]`.

    Fields that nothing is scattered to are NULL.
    """
    index = np.zeros(rows * width, np.int32)
    index[row * width + slot] = text
    fields = pool.texts.take(pa.array(index))
    offsets = np.arange(0, rows * width + 1, width, dtype=np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), fields), TAB)
    return pc.binary_join_element_wise(joined, NOTHING, END_OF_LINE)


def buffer_slice(text: pa.StringArray, start: int, stop: int) -> memoryview:
    """The bytes of lines `start` to `stop` (exclusive), without a copy."""
    offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1]
    return memoryview(text.buffers()[2])[offsets[start] : offsets[stop]]


def chunks(rows: int, width: int) -> list[tuple[int, int]]:
    """Row ranges small enough to pivot at a time."""
    step = max(1, MAX_SLOTS // width)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def moment_text(moment_us: IntArray) -> pa.StringArray:
    """Moments as PostgreSQL reads them, microseconds kept; years before 1 become BC."""
    moments = moment_us.astype("datetime64[us]")
    if len(moments) and (
        moments.min() < np.datetime64("0001-01-01") or moments.max() > np.datetime64("9999-12-31")
    ):
        return pa.array([_far_moment_text(moment) for moment in moments], pa.string())
    return pc.strftime(pa.array(moment_us, pa.int64()).cast(pa.timestamp("us")), "%Y-%m-%d %H:%M:%S")


def _far_moment_text(moment: np.datetime64) -> str:
    """ISO text for any year: numpy writes astronomical years (0 is 1 BC), PostgreSQL wants the BC suffix."""
    date, time = str(moment).split("T")
    year, month, day = date.rsplit("-", 2)
    before_christ = int(year) <= 0
    shown = 1 - int(year) if before_christ else int(year)
    return f"{shown:04d}-{month}-{day} {time}{' BC' if before_christ else ''}"


def version_text(
    group: IntArray,
    groups: int,
    ordinal: IntArray,
    epoch: IntArray,
    lsn: IntArray,
    kind: pa.StringArray,
) -> pa.StringArray:
    """The `_x` object of each group as JSON text: ``{"ordinal": [epoch, lsn, "kind"], ...}``.

    Entries come in any order; `group` numbers the row each belongs to.
    """
    order = np.argsort(group, kind="stable")
    number = [pa.array(part[order]).cast(pa.string()) for part in (ordinal, epoch, lsn)]
    letter = kind.take(pa.array(order))
    entry = pc.binary_join_element_wise(
        QUOTE, number[0], LIST, number[1], COMMA, number[2], LETTER, letter, END_OF_LIST, NOTHING
    )
    return _joined(entry, group[order], groups, "{", "}")


def ordinal_set_text(group: IntArray, groups: int, ordinal: IntArray) -> pa.StringArray:
    """The ordinals of each group as a JSON array of strings, for the ``?`` operator; ``[]`` where none."""
    if not len(group):
        return pa.repeat(NO_ORDINALS, groups)
    order = np.argsort(group, kind="stable")
    entry = pc.binary_join_element_wise(QUOTE, pa.array(ordinal[order]).cast(pa.string()), QUOTE, NOTHING)
    return _joined(entry, group[order], groups, "[", "]")


def _joined(entry: pa.StringArray, group: IntArray, groups: int, left: str, right: str) -> pa.StringArray:
    offsets = np.searchsorted(group, np.arange(groups + 1)).astype(np.int32)
    listed = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), entry), COMMA)
    return pc.binary_join_element_wise(constant(left), listed, constant(right), NOTHING)
