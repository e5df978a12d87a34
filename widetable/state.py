"""What the target tells about the state of a pipeline, for both `status` commands.

In: a session on the target with the control schema on its path. Out: plain values, ready for JSON. Nothing is
changed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Final

from psycopg import sql
from psycopg.rows import class_row, dict_row

from widetable.hand_off import HandOff
from widetable.layout import load_layout
from widetable.lsn import format_lsn
from widetable.newcomers import unknown_channels, unknown_ships
from widetable.postgres import Connection, fetch_one
from widetable.statements import load_statements

SQL: Final = load_statements(files("widetable") / "sql" / "state.sql")

COUNTED: Final = ("waiting", "running", "done", "failed", "rows", "rows_left")

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PlanState:
    """A plan's slices by state, its rows (those left are an estimate), and its speed of late, if any."""

    plan_id: int
    finished: bool
    waiting: int
    running: int
    done: int
    failed: int
    rows: int
    rows_left: int
    rows_per_s: float | None

    @property
    def eta_s(self) -> float | None:
        """Seconds until the rest is copied at this speed; None where nothing is left, or nothing moves."""
        return self.rows_left / self.rows_per_s if self.rows_left and self.rows_per_s else None


def hand_off_facts(latest: HandOff | None, pipeline: str) -> Facts:
    """The hand-off of the last epoch, torn down or not."""
    if latest is None:
        return {"pipeline": pipeline, "state": "no hand-off: run `cdc-consumer init`"}
    return {
        "pipeline": latest.pipeline,
        "state": "torn down" if latest.ended else "streaming",
        "epoch": latest.epoch,
        "consistent_point": format_lsn(latest.consistent_point),
        "barrier_xid": latest.barrier_xid,
        "topic": latest.topic,
        **({"verify_required": latest.verify_required} if latest.verify_required else {}),
    }


def slot_facts(name: str, state: str, retained_bytes: int, budget_bytes: int | None) -> Facts:
    """The slot, and how much more WAL it may retain before it is lost; None where that is unlimited."""
    left = None if budget_bytes is None else max(0, budget_bytes - retained_bytes)
    return {"name": name, "state": state, "retained_bytes": retained_bytes, "budget_left_bytes": left}


def cell_facts(conn: Connection, pipeline: str) -> Facts:
    """Cells that are not where they belong, and newcomers that wait for their place; by name if for a person."""
    with conn.cursor(row_factory=dict_row) as cursor:
        counts = cursor.execute(SQL["cells"], {"pipeline": pipeline}).fetchall()[0]
    waiting = {"waiting_channels": unknown_channels(conn), "waiting_ships": unknown_ships(conn)}
    return {**counts, **{name: found for name, found in waiting.items() if found}}


def read_plans(conn: Connection, pipeline: str) -> list[PlanState]:
    """All plans of history, the newest first."""
    with conn.cursor(row_factory=class_row(PlanState)) as cursor:
        return cursor.execute(SQL["history"], {"pipeline": pipeline}).fetchall()


def history_facts(plans: list[PlanState]) -> Facts:
    """All plans together: slices by state, rows, speed, and the time left."""
    if not plans:
        return {"state": "nothing was copied yet"}
    speed = sum(plan.rows_per_s or 0 for plan in plans if not plan.finished)
    whole = PlanState(
        plan_id=0,
        finished=all(plan.finished for plan in plans),
        rows_per_s=speed or None,
        **{name: sum(getattr(plan, name) for plan in plans) for name in COUNTED},
    )
    state = "finished" if whole.finished else ("running" if whole.running else "stands still")
    facts = {name: value for name, value in asdict(whole).items() if name in (*COUNTED, "rows_per_s")}
    return {"state": state, **facts, "eta_s": whole.eta_s}


def ship_facts(conn: Connection, pipeline: str) -> Facts:
    """Per ship: its newest moment in the wide tables, how old that is, and how far it is verified.

    Moments have no time zone: their age supposes UTC.
    """
    verified: dict[str, str] = dict(conn.execute(SQL["verified"], {"pipeline": pipeline}).fetchall())
    parts = [
        sql.SQL("SELECT {}, max(created_time) FROM {}").format(table.ship_id, table.identifier)
        for table in load_layout(conn).tables.values()
    ]
    query = sql.SQL(
        "SELECT ship, max(moment)::text, extract(epoch FROM now() AT TIME ZONE 'UTC' - max(moment))::float8"
        " FROM ({}) AS part (ship, moment) GROUP BY ship ORDER BY ship"
    )
    rows = conn.execute(query.format(sql.SQL(" UNION ALL ").join(parts))).fetchall() if parts else []
    return {
        "ships": [
            {"ship_id": ship, "newest": newest, "age_s": age_s, "verified_through": verified.get(ship)}
            for ship, newest, age_s in rows
        ]
    }


def server_facts(conn: Connection) -> Facts:
    """The server that a session reached."""
    return {"state": "connected", "version": fetch_one(conn, "SHOW server_version")[0].split()[0]}


def session_count(conn: Connection) -> int:
    """Sessions of both programs on this database."""
    return int(fetch_one(conn, SQL["sessions"])[0])
