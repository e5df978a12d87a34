"""History: the samples up to a moment, written by COPY in one transaction.

In: a plan, a number of rows, the moment where history ends. Out: exactly that many rows of the narrow table.
They come minute by minute, oldest first, as collectors wrote them, with some samples one minute late.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

import pyarrow as pa

from devstack.fleet.bursts import burst_of, count_samples, late_rows, minute_of, moment_of
from devstack.fleet.copytext import copy_text
from devstack.fleet.database import Connection, fleet_session
from devstack.fleet.plan import FleetPlan
from devstack.fleet.report import HistoryReport
from widetable.errors import ConfigurationError

COPY_SQL: Final = """
COPY tenant.tbl_data_timeseries
    (ship_id, data_channel_id, created_time, bool_v, str_v, long_v, double_v, value_format,
     server_created_time)
FROM STDIN
"""


def write_history(dsn: str, fleet: FleetPlan, rows: int, until: datetime) -> HistoryReport:
    """Write the `rows` newest samples that the fleet has before `until` (rounded down to its minute).

    Raises:
        ConfigurationError: `rows` is not positive, the narrow table is missing, or part of this history is
            there already; nothing was added.
        UnreachableError: the database failed; nothing of this history is then in it.
    """
    minutes, surplus = history_minutes(fleet, rows, minute_of(until))
    began = time.monotonic()
    with fleet_session(dsn) as conn:
        _copy(conn, history_samples(fleet, minutes, surplus))
        conn.commit()
    seconds = time.monotonic() - began
    return HistoryReport(rows, moment_of(minutes.start), moment_of(minutes.stop), seconds, rows / seconds)


def history_minutes(fleet: FleetPlan, rows: int, until_minute: int) -> tuple[range, int]:
    """The minutes before `until_minute` that hold `rows` samples, and how many too many they hold."""
    if rows < 1:
        raise ConfigurationError(f"A history of {rows} rows can't be written; ask for at least one.")
    first, found = until_minute, 0
    while found < rows:
        first -= 1
        found += count_samples(fleet, first)
    return range(first, until_minute), found - rows


def history_samples(fleet: FleetPlan, minutes: range, surplus: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield the samples of `minutes` but the first `surplus`, a ship's minute at a time as `SAMPLES`.

    The late rows of a minute follow the minute after it.
    """
    held: list[pa.RecordBatch] = []
    for minute in minutes:
        late: list[pa.RecordBatch] = []
        for ship in range(len(fleet.ships)):
            burst = burst_of(fleet, ship, minute).samples
            due, surplus = burst.slice(surplus), max(0, surplus - len(burst))
            is_late = late_rows(len(due), fleet.generator(ship, minute, "late"))
            late.append(due.filter(pa.array(is_late)))
            yield due.filter(pa.array(~is_late))
        yield from held
        held = late
    yield from held


def _copy(conn: Connection, batches: Iterator[pa.RecordBatch]) -> None:
    """Send the batches, while the next one is being made (numpy, Arrow and the socket release the GIL)."""
    now = conn.execute("SELECT now()::timestamp::text").fetchone()
    server_time = pa.scalar(now[0] if now else None, pa.string())
    with conn.cursor().copy(COPY_SQL) as copy, ThreadPoolExecutor(1) as maker:
        following = maker.submit(_next_text, batches, server_time)
        while (text := following.result()) is not None:
            following = maker.submit(_next_text, batches, server_time)
            copy.write(text)


def _next_text(batches: Iterator[pa.RecordBatch], server_time: pa.StringScalar) -> memoryview | None:
    batch = next(batches, None)
    if batch is None:
        return None
    return memoryview(copy_text([*batch.columns, pa.repeat(server_time, len(batch))]))
