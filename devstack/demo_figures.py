"""What the demo reads off the target: rows, tuples written, versions that live changes left in history."""

from __future__ import annotations

import time
from typing import Any, Final

import psycopg
from psycopg import sql

from devstack.errors import DevstackError
from devstack.fleet import HistoryReport
from devstack.product import Process

DRAIN_S: Final = 90.0
TABLES: Final = "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'tenant' ORDER BY relname"
TUPLES: Final = """
SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = 'tenant'
"""
ROWS: Final = sql.SQL("""
SELECT count(*), count(*) FILTER (WHERE _x IS NOT NULL AND created_time < %s) FROM {}
""")


def wait_for_overflow(dsn: str, consumer: Process) -> None:
    """Wait until what overflow holds has columns and tables: the governor's work."""
    deadline = time.monotonic() + DRAIN_S
    with psycopg.connect(dsn, autocommit=True) as conn:
        while _pending(conn) and time.monotonic() < deadline:
            if not consumer.running:
                raise DevstackError(f"the consumer has ended; see its log, {consumer.log}")
            time.sleep(0.2)


def _pending(conn: psycopg.Connection[Any]) -> int:
    return int(_one(conn.execute("SELECT count(*) FROM cdc.overflow_cell"))[0])


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    """The only row of a query that always has one."""
    (row,) = cursor.fetchall()
    return tuple(row)


def read_figures(dsn: str, history: HistoryReport) -> dict[str, Any]:
    """Counts of the target at rest."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        tables = [name for (name,) in conn.execute(TABLES)]
        rows = changed = 0
        for name in tables:
            query = ROWS.format(sql.Identifier("tenant", name))
            found, touched = _one(conn.execute(query, [history.until]))
            rows, changed = rows + found, changed + touched
        written = _one(conn.execute(TUPLES))
        dead = _one(conn.execute("SELECT count(*) FROM cdc.dead_cell"))
        pending = _pending(conn)
    return {
        "wide_tables": len(tables),
        "wide_rows": rows,
        "history_rows_changed_live": changed,
        "write_amplification": round(int(written[0]) / max(rows, 1), 3),
        "overflow_pending": pending,
        "dead_cells": int(dead[0]),
    }
