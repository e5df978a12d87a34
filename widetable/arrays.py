"""From Arrow to numpy, where what becomes of NULL is part of the question."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]


def text(value: str) -> pa.StringScalar:
    """A constant for Arrow's functions, made once.

    Of a plain str Arrow infers the type at each call, and tries to import dateutil to do so: 0.05 ms each time,
    which for small batches is more than the work itself.
    """
    return pa.scalar(value, pa.string())


def valid(array: pa.Array) -> Mask:
    """Where there is a value."""
    return np.asarray(array.is_valid(), np.bool_)


def mask(flags: pa.BooleanArray) -> Mask:
    """Where the flag is true; NULL is not."""
    return np.asarray(pc.fill_null(flags, fill_value=False), np.bool_)


def numbers(array: pa.Array, missing: int = 0) -> Index:
    """The integers, with `missing` for NULL."""
    return np.asarray(pc.fill_null(array, missing) if array.null_count else array, np.int64)


def text_bytes(text: pa.StringArray) -> npt.NDArray[np.uint8]:
    """All characters of all strings in one array, without a copy; may hold leftovers under NULLs."""
    _, offset_buffer, content = text.buffers()
    if content is None:
        return np.empty(0, np.uint8)
    offsets = np.frombuffer(offset_buffer, np.int32)
    first, last = offsets[text.offset], offsets[text.offset + len(text)]
    return np.frombuffer(content, np.uint8)[first:last]
