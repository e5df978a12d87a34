"""Freeing oneself from a stuck session: a process stopped in mid-COPY holds its locks through every timeout.

In: a session that is about to wait, and whom it may end. Guarantee: only a session that a control table names,
by process id and start time, and that `pg_blocking_pids` says is what keeps us waiting, is ever ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, LiteralString

import psycopg
import structlog

from widetable.errors import WideTableError
from widetable.postgres import Connection
from widetable.statements import load_statements

log = structlog.get_logger(__name__)

SQL: Final = load_statements(files("widetable") / "sql" / "freeing.sql")


@dataclass(frozen=True, slots=True)
class Ending:
    """Whom to end. `end` returns a row per session ended and takes `waiting_pid`; `after` follows it."""

    who: str
    end: LiteralString
    after: LiteralString | None = None


PREVIOUS_OWNER: Final = Ending("previous owner", SQL["end_owner"])
LESSER_WRITER: Final = Ending("backfill or resync", SQL["end_lesser"], SQL["give_back"])
"""Live data comes first: history and repairs can be done again at any time."""

BEFORE_TIMEOUT: Final = 0.8
"""Of the lock timeout."""


def patience_s(most_s: float, lock_timeout_s: float) -> float:
    """How long to wait before `freeing` ends what blocks: at a lock timeout the wait would be over before."""
    return min(most_s, BEFORE_TIMEOUT * lock_timeout_s)


@contextmanager
def freeing(
    waiting: Connection,
    connect: Callable[[], Connection],
    ending: Ending,
    patience_s: float,
    values: dict[str, Any] | None = None,
) -> Iterator[None]:
    """While the block runs longer than `patience_s`, end what blocks it, once, by another session."""
    known = {**(values or {}), "waiting_pid": waiting.info.backend_pid}
    timer = threading.Timer(patience_s, _free, [connect, ending, known])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _free(connect: Callable[[], Connection], ending: Ending, known: dict[str, Any]) -> None:
    try:
        with connect() as conn:
            ended = [row[0] for row in conn.execute(ending.end, known)]
            if ended and ending.after:
                conn.execute(ending.after, {"pids": ended})
    except (psycopg.Error, WideTableError) as error:  # a thread of its own: whoever waits times out
        log.warning("blocking_session_not_ended", who=ending.who, error=str(error))
    else:
        if ended:
            log.warning("blocking_session_ended", who=ending.who, pids=ended)
