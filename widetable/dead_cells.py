"""Dead cells: what can't be stored anywhere keeps its coordinates, its reason and its raw bytes.

One bad cell never costs the others of its row. The header names are those of Kafka Connect's dead letter queue
(KIP-298), so that existing tools for such queues understand them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np
from psycopg.types.json import Jsonb

from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US, DeadCell
from widetable.postgres import Connection
from widetable.statements import load_statements

SQL: Final = load_statements(files("widetable") / "sql" / "dead_cell.sql")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a batch comes from: the topic of the stream, or the source table (no topic)."""

    pipeline: str
    topic: str | None = None
    topic_id: str | None = None


def store_dead_cells(conn: Connection, origin: Origin, dead: list[DeadCell]) -> None:
    """Insert dead cells in the caller's transaction; one that is there already (a replay) stays as it is."""
    if dead:
        with conn.cursor() as cursor:
            cursor.executemany(SQL["insert"], [_row(origin, cell) for cell in dead])


def _row(origin: Origin, cell: DeadCell) -> tuple[Any, ...]:
    streamed = origin.topic_id is not None
    return (
        origin.pipeline,
        origin.topic,
        origin.topic_id,
        cell.partition if streamed else None,
        cell.offset if streamed else None,
        _storable(cell.ship_id),
        _storable(cell.channel_id),
        None if cell.created_time is None else created_time_text(cell.created_time),
        cell.reason,
        _storable(cell.detail),
        Jsonb(_headers(origin, cell) if streamed else {}),
        cell.raw_key,
        cell.raw_value,
    )


def created_time_text(created_time_us: int) -> str:
    """A moment as text, also where it is infinite."""
    if created_time_us < FIRST_MOMENT_US:
        return "-infinity"
    if created_time_us > LAST_MOMENT_US:
        return "infinity"
    return str(np.datetime64(created_time_us, "us"))


def _storable(text: str | None) -> str | None:
    """PostgreSQL text can't hold NUL; the raw bytes keep it."""
    return None if text is None else text.replace("\x00", "\\0")


def _headers(origin: Origin, cell: DeadCell) -> dict[str, str]:
    return {
        "__connect.errors.topic": origin.topic or "",
        "__connect.errors.partition": str(cell.partition),
        "__connect.errors.offset": str(cell.offset),
        "__connect.errors.stage": "VALUE_CONVERTER",
        "__connect.errors.exception.message": f"{cell.reason}: {_storable(cell.detail)}",
    }
