"""What the stream touches, noted for `backfill verify --follow`: which stretches of which ships to look at again.

In: a batch that is being applied. Out: a row per ship and stretch of 15 minutes, in the batch's transaction; none
while nobody follows. Guarantee: a change that a follower's look did not see leaves a row that it will see: the row
commits with the change, and a stretch that is being looked at gets another one.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files
from typing import Any, Final, NamedTuple

import pyarrow as pa

from widetable.cells import number_rows
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US
from widetable.postgres import Connection
from widetable.statements import load_statements

SQL: Final = load_statements(files("widetable") / "sql" / "recheck.sql")
STRETCH_US: Final = 15 * 60_000_000
"""The newest stretch is touched all the time: it should be soon complete, and not cost much to look at again."""


class Stretch(NamedTuple):
    """A ship's moments from `lower_us` up to, but without, `upper_us`."""

    ship_id: str
    lower_us: int
    upper_us: int


def touched(batch: pa.RecordBatch) -> list[Stretch]:
    """The stretches in which a batch has samples, ascending; what is dead by its ship or moment has none."""
    moments = batch.column("created_time").to_numpy()
    storable = (moments >= FIRST_MOMENT_US) & (moments <= LAST_MOMENT_US)
    if not storable.all():
        batch, moments = batch.filter(pa.array(storable)), moments[storable]
    rows, _ = number_rows(batch.column("ship_id"), pa.array(moments // STRETCH_US * STRETCH_US))
    named = ((rows.ships[ship], start) for ship, start in zip(rows.ship, rows.moment.tolist(), strict=True))
    return [stretch(ship, start) for ship, start in named if "\0" not in ship]


def stretch(ship: str, start_us: int) -> Stretch:
    """The stretch that begins there, within the moments that PostgreSQL and bigint know."""
    upper_us = min(start_us + STRETCH_US, LAST_MOMENT_US + 1)
    return Stretch(ship, max(start_us, FIRST_MOMENT_US), upper_us)


def columns(pipeline: str, stretches: Collection[Stretch]) -> dict[str, Any]:
    """Stretches (at least one) as parameters of a statement."""
    ships, lowers_us, uppers_us = (list(column) for column in zip(*stretches, strict=True))
    return {"pipeline": pipeline, "ships": ships, "lowers_us": lowers_us, "uppers_us": uppers_us}


def note_touched(conn: Connection, pipeline: str, batch: pa.RecordBatch) -> None:
    """Note a batch's stretches in the current transaction."""
    if stretches := touched(batch):
        conn.execute(SQL["touch"], columns(pipeline, stretches))
