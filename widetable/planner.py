"""The layout planner: will a wide row fit its page? Pure; asked before any DDL.

In: the columns of a table, with the typical length of their texts. Out: typical, high and worst bytes of a row, and
what stands against creating it. PostgreSQL checks the size of a row on insert only, so a table that can't
hold its rows would be found out by the first full one.

Sizes follow "Database Page Layout" and "TOAST" of PostgreSQL's documentation: values of up to 24 bytes are
never moved out of the row, so neither compression nor TOAST helps a row of many short values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from widetable.values import ColumnType

PAGE_BYTES: Final = 8160
"""Largest tuple: 8,192 less page header and line pointer."""
MAX_COLUMNS: Final = 1598  # PostgreSQL's 1,600, less the two leading fields of a staging table
"""PostgreSQL's limit; a dropped column counts for ever."""
FIXED_COLUMNS: Final = 2
"""`created_time` and `_x`."""
HEADER_BYTES: Final = 23
ALIGNMENT_BYTES: Final = 8
NEVER_TOASTED_BYTES: Final = 24
TEXT_HEADER_BYTES: Final = 1
TYPICAL_TEXT_BYTES: Final = 8.0
"""Length assumed for a channel that no sample shows."""
MARGIN: Final = 0.10
"""Part of the page that rows of texts leave free: what is known of them is a sample, and `_x` comes on top."""


@dataclass(frozen=True, slots=True)
class ColumnSize:
    """A channel column: its type, and how many bytes the text of its values typically has."""

    column_type: ColumnType
    text_bytes: float = TYPICAL_TEXT_BYTES

    @property
    def typical_bytes(self) -> float:
        """Bytes of a usual value; a longer text is moved out of the row when the page gets tight."""
        if self.column_type == "text":
            return min(self.text_bytes + TEXT_HEADER_BYTES, NEVER_TOASTED_BYTES)
        return self.worst_bytes

    @property
    def worst_bytes(self) -> float:
        """Bytes that the value may take inside the row whatever happens."""
        return {"text": NEVER_TOASTED_BYTES, "bool": 1}.get(self.column_type, 8)

    @property
    def alignment(self) -> int:
        """Bytes that the value's position is a multiple of."""
        return 1 if self.column_type in {"text", "bool"} else ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True)
class RowSize:
    """Size of a full row: every channel has a value."""

    column_count: int  # of the table: channels, `created_time`, `_x` and dropped columns
    typical_bytes: int
    high_bytes: int  # of the 99.9th percentile of observed rows, were they full
    worst_bytes: int
    bounded: bool  # no text: the worst row is no guess


def row_size(columns: Sequence[ColumnSize], dropped: int = 0, spread: float = 0.0) -> RowSize:
    """Typical, high and worst bytes of a full row.

    Args:
        columns: the channel columns, in physical order.
        dropped: columns that the table had once.
        spread: what the 99.9th percentile of rows takes beyond the typical bytes of its values, as a part of them.
    """
    column_count = len(columns) + FIXED_COLUMNS + dropped
    header = _aligned(HEADER_BYTES + math.ceil(column_count / 8), ALIGNMENT_BYTES)
    moment_bytes = 8
    typical = worst = float(moment_bytes)
    worst += NEVER_TOASTED_BYTES  # `_x`
    values = sum(column.typical_bytes for column in columns)
    for column in columns:
        typical = _aligned(typical, column.alignment) + column.typical_bytes
        worst = _aligned(worst, column.alignment) + column.worst_bytes
    return RowSize(
        column_count=column_count,
        typical_bytes=int(_aligned(header + math.ceil(typical), ALIGNMENT_BYTES)),
        high_bytes=int(_aligned(header + math.ceil(typical + spread * values), ALIGNMENT_BYTES)),
        worst_bytes=int(_aligned(header + math.ceil(worst), ALIGNMENT_BYTES)),
        bounded=all(column.column_type != "text" for column in columns),
    )


def _aligned(position: float, alignment: int) -> float:
    return math.ceil(position / alignment) * alignment if alignment > 1 else position


def misfits(size: RowSize) -> list[str]:
    """Why a table of such rows must not be created, with figures; empty if it may."""
    found = []
    if size.column_count > MAX_COLUMNS:
        found.append(
            f"{size.column_count:,} columns; a wide table can have {MAX_COLUMNS:,}, dropped ones included"
        )
    limit = math.floor(PAGE_BYTES * (1 - MARGIN))
    if size.bounded and size.worst_bytes > PAGE_BYTES:
        found.append(f"a full row has {size.worst_bytes:,} bytes, a page holds {PAGE_BYTES:,}")
    if not size.bounded and size.high_bytes > limit:
        found.append(
            f"a typical full row has {size.typical_bytes:,} bytes, the 99.9th percentile {size.high_bytes:,};"
            f" a page holds {PAGE_BYTES:,}, of which {MARGIN:.0%} are kept free ({limit:,})"
        )
    return found


def doubts(size: RowSize) -> list[str]:
    """What may go wrong in a table that is fine otherwise; such rows go to overflow one by one."""
    if size.bounded or size.worst_bytes <= PAGE_BYTES:
        return []
    text = (
        f"a row full of {NEVER_TOASTED_BYTES - 1}-byte texts would take {size.worst_bytes:,} bytes, a page"
        f" holds {PAGE_BYTES:,}; cells of such a row go to overflow"
    )
    return [text]
