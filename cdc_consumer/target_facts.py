"""What the target knows about the pipeline: overflow, dead cells, slices of history, what is proven.

In: the control schema, asked every few seconds by a thread of the parent. Out: gauges by name. A fact that could
not be read, or was read long ago by a reading that hangs now, is absent: nobody takes an old number for the truth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final

import structlog

from cdc_consumer.catalogue import SLICE_STATES
from cdc_consumer.settings import Settings
from widetable.command_line import named
from widetable.control import check_control
from widetable.postgres import Connection, connect_target
from widetable.statements import load_statements

log = structlog.get_logger(__name__)

SQL: Final = load_statements(files("cdc_consumer") / "sql" / "target_facts.sql")
OPEN: Final = ("waiting", "running")
OLD_S: Final = 60.0
"""Six readings, as `app` makes them: what was read longer ago is not told any more."""

Gauges = Mapping[str, float | Mapping[str, float]]
"""Values of metrics by name; a metric with a label has one for each value of the label."""


def read_facts(conn: Connection, pipeline: str) -> Gauges:
    """The facts as they are now; `conn` has the control schema on its path."""
    key = {"pipeline": pipeline}
    overflow, channels, pending_ships, ships, due = conn.execute(SQL["cells"], key).fetchall()[0]
    gauges: dict[str, float | Mapping[str, float]] = {
        "cdc_overflow_cells": overflow,
        "cdc_pending_channels": channels,
        "cdc_pending_ships": pending_ships,
        "cdc_ships": ships,
        "cdc_verify_required": float(due),
        "cdc_dead_cells": dict(conn.execute(SQL["dead"], key).fetchall()),
    }
    verified, age_s = conn.execute(SQL["verified"], key).fetchall()[0]
    gauges["cdc_verified_ships"] = verified
    if age_s is not None:
        gauges["cdc_verified_age_seconds"] = age_s
    if settled := conn.execute(SQL["settled"], key).fetchone():
        gauges["cdc_settled_age_seconds"] = settled[0]
    return gauges | _history(conn, key)


def _history(conn: Connection, key: dict[str, str]) -> dict[str, float | Mapping[str, float]]:
    slices = {state: counts for state, *counts in conn.execute(SQL["slices"], key)}
    left = sum(slices[state][2] for state in OPEN if state in slices)
    (pace,) = conn.execute(SQL["pace"], key).fetchall()[0]
    gauges: dict[str, float | Mapping[str, float]] = {
        "cdc_backfill_slices": {state: slices.get(state, [0])[0] for state in SLICE_STATES},
        "cdc_backfill_rows": slices["done"][1] if "done" in slices else 0,
        "cdc_backfill_rows_left": left,
        "cdc_backfill_rows_per_second": pace,
    }
    if pace or not left:
        gauges["cdc_backfill_eta_seconds"] = left / pace if left else 0.0
    return gauges


def facts_of(settings: Settings) -> Callable[[], Gauges]:
    """Reads the facts on a session of its own."""

    def read() -> Gauges:
        with connect_target(settings.target, "cdc-consumer metrics") as conn:
            check_control(conn, settings.target.control_schema)
            return read_facts(conn, settings.pipeline.name)

    return read


class TargetFacts:
    """Reads from time to time, in a thread of its own; `step` never waits.

    Args:
        read: finds out what is true now.
        clock: monotonic seconds.
    """

    def __init__(self, read: Callable[[], Gauges], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._read_at = clock()
        self._thread: threading.Thread | None = None
        self._gauges: Gauges = {}
        self._told = ""

    def gauges(self) -> Gauges:
        """What the last reading found; nothing where it failed, or is old because the next one hangs."""
        return self._gauges if self._clock() - self._read_at < OLD_S else {}

    def step(self) -> None:
        """Begin the next reading, unless one is under way."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._read_once, name="target facts", daemon=True)
            self._thread.start()

    def _read_once(self) -> None:
        try:
            self._gauges, self._told = self._read(), ""
            self._read_at = self._clock()
        except Exception as error:
            self._gauges = {}
            known = named(error)
            if known is None:
                log.exception("target_facts_bug")
            elif str(known) != self._told:
                self._told = str(known)
                log.warning("target_facts_unknown", error=self._told)
