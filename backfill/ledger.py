"""Slices in the target: claimed, done, split, failed.

A worker claims a slice in a transaction of its own and locks it again, by its attempt number, in the
transaction that writes the data. Guarantee: a slice is done if and only if its data is there, whoever dies at
whatever point; a worker that was taken for dead finds its attempt outdated and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from psycopg.types.json import Jsonb

from backfill.planner import Bounds
from backfill.plans import add_slices
from widetable.postgres import Connection, fetch_one
from widetable.statements import load_statements

SQL: Final = load_statements(files("backfill") / "sql" / "ledger.sql")
ERROR_LENGTH: Final = 500


@dataclass(frozen=True, slots=True)
class Claim:
    """A slice in work. `attempt` is the fence; `failures` counts attempts that came to nothing."""

    plan_id: int
    slice_no: int
    bounds: Bounds
    attempt: int
    failures: int


@dataclass(frozen=True, slots=True)
class Totals:
    """A plan in numbers; the `run_…` fields count what one run of the program has done."""

    slices: int
    done: int
    running: int
    failed: int
    rows: int
    cells: int
    rows_left: int  # estimate
    run_slices: int = 0
    run_rows: int = 0
    run_cells: int = 0


@dataclass(frozen=True, slots=True)
class FailedSlice:
    """A slice that was given up."""

    slice_no: int
    bounds: Bounds
    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class Copied:
    """What a slice held: narrow rows, in all and by ship, cells, and the snapshot that they were read in."""

    rows: int = 0
    cells: int = 0
    snapshot: str = ""
    ship_rows: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Copied) -> Copied:
        """Both together; the later snapshot counts."""
        ships = {**self.ship_rows}
        for ship, rows in other.ship_rows.items():
            ships[ship] = ships.get(ship, 0) + rows
        return Copied(self.rows + other.rows, self.cells + other.cells, other.snapshot, ships)


class SliceLostError(Exception):
    """Somebody else has this slice now, or its plan is gone: drop what was read."""


def claim_next(conn: Connection, plan_id: int, worker: str, lease_s: int) -> Claim | None:
    """Take the next slice that is free; None if none is right now."""
    values = {"plan_id": plan_id, "worker": worker, "lease_s": lease_s}
    row = conn.execute(SQL["claim"], values).fetchone()
    if row is None:
        return None
    slice_no, lower_us, upper_us, estimate, attempt, failures = row
    return Claim(plan_id, slice_no, Bounds(lower_us, upper_us, estimate), attempt, failures)


def release(conn: Connection, claim: Claim) -> None:
    """Give a slice back untouched."""
    conn.execute(SQL["release"], _key(claim))


def lock(conn: Connection, claim: Claim) -> None:
    """Lock the slice until the transaction ends; the first statement of every transaction about it.

    Raises:
        SliceLostError: the claim is outdated.
    """
    if conn.execute(SQL["lock"], _key(claim)).fetchone() is None:
        raise SliceLostError


def mark_done(conn: Connection, claim: Claim, copied: Copied) -> None:
    """Record that the data of the locked slice is part of this transaction."""
    conn.execute(SQL["done"], _figures(copied) | {"plan_id": claim.plan_id, "slice_no": claim.slice_no})


def mark_retried(conn: Connection, plan_id: int, failed: FailedSlice, copied: Copied) -> bool:
    """Record that the data of a failed slice has been copied meanwhile; false if another run has it by now."""
    key = {"plan_id": plan_id, "slice_no": failed.slice_no, "attempt": failed.attempt}
    return conn.execute(SQL["retried"], _figures(copied) | key).rowcount == 1


def split(conn: Connection, claim: Claim, parts: list[Bounds]) -> None:
    """Replace a slice that proved too large by its parts, in one transaction.

    Raises:
        SliceLostError: the claim is outdated.
    """
    with conn.transaction():
        lock(conn, claim)
        (last_no,) = fetch_one(conn, SQL["lock_plan"], claim.plan_id)
        conn.execute(SQL["split"], [claim.plan_id, claim.slice_no])
        add_slices(conn, claim.plan_id, last_no + 1, parts)


def fail(conn: Connection, claim: Claim, error: str, attempts: int, wait_s: float) -> bool:
    """Record a failed attempt; true if the slice is given up, else it waits for `wait_s`."""
    values = {"attempts": attempts, "error": error[:ERROR_LENGTH], "wait_s": wait_s}
    key = {"plan_id": claim.plan_id, "slice_no": claim.slice_no, "attempt": claim.attempt}
    row = conn.execute(SQL["fail"], values | key).fetchone()
    return row is not None and row[0] == "failed"


def open_slices(conn: Connection, plan_id: int) -> int:
    """Slices that wait or are in work."""
    return int(fetch_one(conn, SQL["open"], plan_id)[0])


def free_stuck(conn: Connection, plan_id: int, lease_s: int) -> None:
    """End sessions that hold a slice beyond its lease: a stopped process keeps its row lock for ever."""
    conn.execute(SQL["stuck"], [plan_id, lease_s])


def reopen_failed(conn: Connection, plan_id: int) -> int:
    """Let failed slices be tried again; returns their number."""
    return conn.execute(SQL["reopen"], [plan_id]).rowcount


def finish(conn: Connection, plan_id: int) -> None:
    """Close the plan if every slice is done."""
    conn.execute(SQL["finish"], [plan_id])


def totals(conn: Connection, plan_id: int, run: str = "-") -> Totals:
    """The plan in numbers; `run` is the prefix of the run's worker names."""
    row = conn.execute(SQL["totals"], {"plan_id": plan_id, "run": run}).fetchone()
    return Totals(*row) if row else Totals(0, 0, 0, 0, 0, 0, 0)


def failed_slices(conn: Connection, plan_id: int, limit: int | None = None) -> list[FailedSlice]:
    """Slices that were given up, each with its last error."""
    rows = conn.execute(SQL["failed"], [plan_id, limit])
    return [
        FailedSlice(number, Bounds(lower_us, upper_us), attempt, error or "")
        for number, lower_us, upper_us, attempt, error in rows
    ]


def measured_pace(conn: Connection, pipeline: str) -> float | None:
    """Rows per second and worker of slices done before."""
    (pace,) = fetch_one(conn, SQL["pace"], pipeline)
    return None if pace is None else float(pace)


def ship_rows(conn: Connection, plan_id: int) -> dict[str, int]:
    """Narrow rows of each ship in the slices that are done; a ship without any is left out."""
    return dict(conn.execute(SQL["ship_rows"], [plan_id]).fetchall())


def copied_through(conn: Connection, plan_id: int) -> int | None:
    """The moment before which everything is copied; None while nothing is, or when all is."""
    row = conn.execute(SQL["through"], [plan_id]).fetchone()
    return None if row is None else row[0]


def _figures(copied: Copied) -> dict[str, object]:
    ships = Jsonb(dict(copied.ship_rows))
    return {"rows": copied.rows, "cells": copied.cells, "snapshot": copied.snapshot, "ship_rows": ships}


def _key(claim: Claim) -> list[int]:
    return [claim.plan_id, claim.slice_no, claim.attempt]
