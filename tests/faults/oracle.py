"""The oracle: reads source and target by plain SQL of its own and compares them cell by cell.

It shares no code with the product: neither its writer nor its verify. What it needs to know of the target is where
a channel's column is, and that is read from the channel map.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql

Cell = tuple[str, datetime, str]
Cells = dict[Cell, str]

OPTIONS: Final = "-c extra_float_digits=1 -c DateStyle=ISO -c TimeZone=UTC -c search_path=cdc"

# The column that the format names; a sample that has only another one set has that value.
SOURCE: Final = """
SELECT ship_id, created_time, data_channel_id, coalesce(
    CASE value_format WHEN 'Decimal' THEN double_v::text WHEN 'Integer' THEN long_v::text
                      WHEN 'String' THEN str_v WHEN 'Boolean' THEN bool_v::text END,
    double_v::text, long_v::text, str_v, bool_v::text)
FROM tenant.tbl_data_timeseries
WHERE isfinite(created_time) AND num_nonnulls(bool_v, str_v, long_v, double_v) > 0
"""
DEAD: Final = "SELECT ship_id, created_time, channel_id FROM dead_cell WHERE channel_id IS NOT NULL"
OVERFLOW: Final = "SELECT ship_id, created_time, channel_id, value FROM overflow_cell WHERE value IS NOT NULL"
COLUMNS: Final = """
SELECT s.ship_id, 'tbl_data_timeseries_' || s.table_prefix || '_' || c.table_no, c.channel_id, c.column_name
FROM ship s CROSS JOIN channel c WHERE s.state = 'live' AND c.state = 'live'
"""


@dataclass(frozen=True, slots=True)
class Differences:
    """How source and target differ, in cells; `examples` for the message of a failed test."""

    missing: int
    different: int
    phantom: int
    examples: list[str]

    @property
    def total(self) -> int:
        """All of them."""
        return self.missing + self.different + self.phantom


def compare(source: str, target: str) -> Differences:
    """Compare all cells of both sides, which must be at rest."""
    return differences(source_cells(source), target)


def differences(expected: Cells, target: str) -> Differences:
    """How the target differs from what is expected of it; a cell that is known as dead may be missing."""
    found = target_cells(target)
    expected = dict(expected)
    for cell in _dead(target):
        expected.pop(cell, None)
    missing = expected.keys() - found.keys()
    phantom = found.keys() - expected.keys()
    shared = expected.keys() & found.keys()
    different = {cell for cell in shared if _number(expected[cell]) != _number(found[cell])}
    examples = [
        f"{what} {cell}: source {expected.get(cell)!r}, target {found.get(cell)!r}"
        for what, cells in (("missing", missing), ("phantom", phantom), ("different", different))
        for cell in sorted(cells)[:3]
    ]
    return Differences(len(missing), len(different), len(phantom), examples)


def _number(text: str) -> str:
    """`-0` and `0` are one value."""
    return "0" if text == "-0" else text


def source_cells(dsn: str) -> Cells:
    """What the narrow table says."""
    with psycopg.connect(dsn, autocommit=True, options=OPTIONS) as conn:
        return {(ship, at, channel): text for ship, at, channel, text in conn.execute(SOURCE)}


def target_cells(dsn: str) -> Cells:
    """What the wide tables say, and what waits in overflow; a cell that is in both must say the same there."""
    cells: Cells = {}
    with psycopg.connect(dsn, autocommit=True, options=OPTIONS) as conn:
        (schema,) = conn.execute("SELECT wide_schema FROM layout").fetchone() or ("",)
        tables: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for ship, table, channel, column in conn.execute(COLUMNS):
            tables.setdefault((ship, table), []).append((channel, column))
        for (ship, table), columns in tables.items():
            for at, channel, text in conn.execute(_unpivot(schema, table, columns)):
                cells[ship, at, channel] = text
        for ship, at, channel, text in conn.execute(OVERFLOW):
            in_column = cells.get((ship, at, channel), text)
            cells[ship, at, channel] = text if text == in_column else f"{in_column}, in overflow {text}"
    return cells


def _unpivot(schema: str, table: str, columns: list[tuple[str, str]]) -> sql.Composed:
    pairs = [
        sql.SQL("({}, {}::text)").format(sql.Literal(channel), sql.Identifier(column))
        for channel, column in columns
    ]
    return sql.SQL(
        "SELECT created_time, v.channel, v.cell FROM {}, LATERAL (VALUES {}) v(channel, cell)"
        " WHERE v.cell IS NOT NULL"
    ).format(sql.Identifier(schema, table), sql.SQL(", ").join(pairs))


def _dead(dsn: str) -> list[Cell]:
    with psycopg.connect(dsn, autocommit=True, options=OPTIONS) as conn:
        rows: list[tuple[Any, ...]] = conn.execute(DEAD).fetchall()
    return [(ship, datetime.fromisoformat(at), channel) for ship, at, channel in rows if _finite(at)]


def _finite(text: str | None) -> bool:
    return text is not None and "infinity" not in text
