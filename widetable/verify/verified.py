"""What verify publishes: per ship, the moment up to which everything was found equal; and that none is due."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from psycopg import sql

from widetable.postgres import Connection, retryable_errors
from widetable.verify.cells_sql import moment
from widetable.verify.report import ShipResult, VerifyReport
from widetable.verify.scope import Scope

# A check that starts past what was proven before leaves a gap and proves nothing new; a difference takes back
# what was claimed beyond it.
UPDATE: Final = """
UPDATE verified SET cells = %(cells)s, checked_at = now(),
    verified_through = CASE WHEN %(agrees)s THEN greatest(verified_through, {through}) ELSE {through} END
WHERE pipeline = %(pipeline)s AND ship_id = %(ship)s AND ({from} IS NULL OR verified_through >= {from})
"""

INSERT: Final = """
INSERT INTO verified (pipeline, ship_id, verified_through, cells)
VALUES (%(pipeline)s, %(ship)s, {through}, %(cells)s) ON CONFLICT DO NOTHING
"""

DUE: Final = """
SELECT epoch, xmin::text, verify_required FROM hand_off
WHERE pipeline = %s AND verify_required IS NOT NULL ORDER BY epoch
"""

# A reason that was given again meanwhile has another version of the row.
CLEAR: Final = """
UPDATE hand_off SET verify_required = NULL WHERE pipeline = %s AND epoch = %s AND xmin::text = %s
"""

SUMMARY: Final = """
SELECT count(*), min(verified_through)::text, max(verified_through)::text, min(checked_at)::text
FROM verified WHERE pipeline = %s
"""


def record_verified(conn: Connection, pipeline: str, report: VerifyReport) -> None:
    """Record what a complete report proves about each ship; `conn` is in autocommit, search path set."""
    if not report.complete:
        return
    with retryable_errors("recording what is verified"), conn.transaction():
        for ship in report.ships:
            if ship.through_us is not None:
                _record(conn, pipeline, ship, ship.through_us)


def _record(conn: Connection, pipeline: str, ship: ShipResult, through_us: int) -> None:
    values = {"pipeline": pipeline, "ship": ship.ship_id, "cells": ship.cells, "agrees": ship.agrees}
    start = sql.SQL("NULL::timestamp") if ship.from_us is None else moment(ship.from_us)
    update = sql.SQL(UPDATE).format(**{"from": start, "through": moment(through_us)})
    updated = conn.execute(update, values).rowcount
    if not updated and ship.from_us is None:
        conn.execute(sql.SQL(INSERT).format(through=moment(through_us)), values)


def verified_summary(conn: Connection, pipeline: str) -> dict[str, int | str | None]:
    """Of how many ships something is proven, and how far the ship goes of which least, and most, is."""
    with retryable_errors("reading what is verified"):
        ships, oldest, newest, checked = conn.execute(SUMMARY, [pipeline]).fetchall()[0]
    return {"ships": ships, "oldest_through": oldest, "newest_through": newest, "oldest_check": checked}


Demand = tuple[int, str, str]
"""Why a verify of all cells is due: epoch, version of its row, reason."""


def verify_due(conn: Connection, pipeline: str) -> list[Demand]:
    """Why a verify of all cells is due, oldest first."""
    with retryable_errors("reading whether a verify is due"):
        return conn.execute(DUE, [pipeline]).fetchall()


def settle_due(
    conn: Connection, pipeline: str, due: Iterable[Demand], scope: Scope, report: VerifyReport
) -> None:
    """Clear the reasons that were there before a verify of everything began, if it found all equal in the end."""
    if scope == Scope() and report.complete and report.agrees:
        clear_due(conn, pipeline, due)


def clear_due(conn: Connection, pipeline: str, due: Iterable[Demand]) -> None:
    """Everything was verified since these reasons were given."""
    with retryable_errors("recording that a due verify is done"):
        for epoch, version, _ in due:
            conn.execute(CLEAR, [pipeline, epoch, version])
