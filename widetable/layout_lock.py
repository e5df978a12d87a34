"""The layout lock: whoever writes wide rows holds it shared, whoever changes a table has it alone.

It is taken inside a transaction and ends with it. Lock order everywhere: ledger row, layout lock, tables by
name, keys ascending.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from widetable.postgres import Connection, fetch_one

# Named after the control schema, so that two pipelines in one database don't wait for each other.
LOCK_SHARED: Final = """
SELECT pg_advisory_xact_lock_shared(hashtextextended('narrow-to-wide layout ' || current_schema(), 0))
"""
LOCK_EXCLUSIVE: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('narrow-to-wide layout ' || current_schema(), 0))
"""

TURNS_MS: Final = (200, 400, 800, 1_600, 3_200)


def lock_layout_shared(conn: Connection) -> None:
    """Keep the layout as it is until the transaction ends; waits while somebody changes it."""
    conn.execute(LOCK_SHARED)


def lock_layout_exclusive(conn: Connection) -> None:
    """Keep every writer out until the transaction ends; waits for those that are at work.

    In short turns, each longer than the one before: writers that come meanwhile queue behind a waiting
    exclusive lock, and a slice of history may take seconds.

    Raises:
        psycopg.errors.LockNotAvailable: the writers left no gap in all that time.
    """
    (patience,) = fetch_one(conn, "SELECT current_setting('lock_timeout')")
    for turn_ms in TURNS_MS:
        try:
            with conn.transaction():  # a savepoint: a turn that is over must not cost the transaction
                conn.execute("SELECT set_config('lock_timeout', %s, true)", [str(turn_ms)])
                conn.execute(LOCK_EXCLUSIVE)
                break
        except psycopg.errors.LockNotAvailable:
            if turn_ms == TURNS_MS[-1]:
                raise
    conn.execute("SELECT set_config('lock_timeout', %s, true)", [patience])


@contextmanager
def layout_change(conn: Connection) -> Iterator[None]:
    """One transaction that holds the exclusive layout lock; `raise_version` marks that something changed."""
    with conn.transaction():
        lock_layout_exclusive(conn)
        yield


def raise_version(conn: Connection) -> None:
    """Tell every writer to read the layout again, at the latest in its next transaction."""
    conn.execute("UPDATE layout SET version = version + 1")
