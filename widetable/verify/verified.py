"""What verify publishes: per ship, the moment up to which everything was found equal."""

from __future__ import annotations

from typing import Final

from psycopg import sql

from widetable.postgres import Connection, retryable_errors
from widetable.verify.cells_sql import moment
from widetable.verify.report import ShipResult, VerifyReport

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
