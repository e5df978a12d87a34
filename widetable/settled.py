"""`settled_lsn`: up to this commit, the target is known to hold all that the source committed.

The consumer records it; verify waits for it. In: the source (one heartbeat row) and the target. Guarantee:
once `wait_settled` returns, every transaction that a snapshot taken before `beat` could see has been
applied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from widetable.errors import UnreachableError
from widetable.hand_off import SQL
from widetable.lsn import format_lsn, parse_lsn
from widetable.postgres import Connection, fetch_one

POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Settled:
    """The last settled commit of an epoch."""

    epoch: int
    lsn: int


def beat_query(heartbeat_table: str) -> str:
    """The statement that moves the heartbeat; it makes the row anew if somebody deleted it."""
    table = sql.Identifier(*heartbeat_table.split("."))
    query = sql.SQL(
        "INSERT INTO {} (id, at) VALUES (1, now()) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
    )
    return query.format(table).as_string()


def beat(source: Connection, heartbeat_table: str) -> int:
    """Write a heartbeat row in its own transaction; returns the LSN to wait for.

    That LSN is read before the row is written, so the heartbeat's own commit carries `settled_lsn` past it.
    """
    if not source.autocommit:
        raise ValueError("the heartbeat must commit at once to be streamed")
    lsn = fetch_one(source, "SELECT pg_current_wal_insert_lsn()::text")[0]
    source.execute(beat_query(heartbeat_table).encode())
    return parse_lsn(lsn)


def read_settled(target: Connection, pipeline: str) -> Settled | None:
    """How far the target is settled; None before the first time in the latest epoch."""
    row = target.execute(SQL["settled"], {"pipeline": pipeline}).fetchone()
    return None if row is None else Settled(row[0], parse_lsn(row[1]))


def write_settled(target: Connection, pipeline: str, settled: Settled) -> None:
    """Record a settled commit; an older one changes nothing."""
    values = {"pipeline": pipeline, "epoch": settled.epoch, "lsn": format_lsn(settled.lsn)}
    target.execute(SQL["settle"], values)


def wait_settled(
    target: Connection,
    pipeline: str,
    lsn: int,
    timeout_s: float,
    pause: Callable[[float], object] = time.sleep,
) -> Settled:
    """Wait until the target is settled at `lsn` or beyond. `target` must be in autocommit.

    `pause` waits for some seconds between two looks; it may raise to end the wait.

    Raises:
        UnreachableError: not in time; the message says how far it is.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        settled = read_settled(target, pipeline)
        if settled is not None and settled.lsn >= lsn:
            return settled
        if time.monotonic() > deadline:
            raise UnreachableError(_too_slow(settled, lsn, timeout_s))
        pause(POLL_S)


def _too_slow(settled: Settled | None, lsn: int, timeout_s: float) -> str:
    reached = (
        "has not settled at all yet in this epoch"
        if settled is None
        else f"is settled at {format_lsn(settled.lsn)}"
    )
    return (
        f"the target {reached}, not at {format_lsn(lsn)}, after {timeout_s:.0f} s: is `cdc-consumer run`"
        " working and the connector RUNNING? `cdc-consumer status` tells. Connect stores its position every"
        " offset.flush.interval.ms (60 s unless set): wait longer than that"
    )
