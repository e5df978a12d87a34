"""Samples in, COPY text out: one line per row, as PostgreSQL's text format wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# The backslash first: the other escapes bring new ones.
_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))


def copy_text(columns: Sequence[pa.Array[Any]]) -> pa.Buffer:
    r"""Write columns of equal length as lines of tab-separated fields, NULL as `\N`."""
    fields: list[Any] = [*map(_field_text, columns), "\t"]
    lines: Any = pc.binary_join_element_wise(*fields, null_handling="replace", null_replacement="\\N")
    return _values_of(pc.binary_join_element_wise(lines, "", "\n"))


def _field_text(column: pa.Array[Any]) -> pa.Array[Any]:
    if not pa.types.is_string(column.type):
        return column.cast(pa.string())
    for raw, escaped in _ESCAPES:
        column = pc.replace_substring(column, raw, escaped)
    return column


def _values_of(lines: pa.StringArray) -> pa.Buffer:
    """The lines end to end: a string array without offset or NULL holds them so already."""
    _, _, values = lines.buffers()
    length = pc.sum(pc.binary_length(lines)).as_py() or 0
    return values.slice(0, length) if values is not None else pa.py_buffer(b"")
