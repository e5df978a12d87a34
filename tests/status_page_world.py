"""A status page of a fleet that is well, but for what a test makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from cdc_consumer.fleet import Fleet
from cdc_consumer.heat_map import DAY_US, Span
from cdc_consumer.metrics import Snapshot
from cdc_consumer.monitor import Answer, Probe, Request, Stream, serve
from cdc_consumer.page_exports import Exports
from cdc_consumer.rates import EVERY_S, Point, Rates
from cdc_consumer.settings import ConsumerSettings
from cdc_consumer.status_page import Sources, StatusPage
from cdc_consumer.target_facts import Gauges
from widetable.errors import UnreachableError
from widetable.postgres import Connection

SHIPS = [
    f"IMO{number}" for number in (9976903, 9976915, 9976927, 9976939, 9988214, 9988226, 9988238, 9988240)
]
DAYS = 90


def usual_gauges() -> dict[str, Any]:
    """What the parent sees of source, Connect and target."""
    return {
        "cdc_slot_active": 1.0,
        "cdc_slot_retained_bytes": 1.9e9,
        "cdc_slot_wal_budget_bytes": 62.5e9,
        "cdc_connector_running": 1.0,
        "cdc_connector_state": {"RUNNING": 1.0},
        "cdc_heartbeat_age_seconds": 4.0,
        "cdc_settled_age_seconds": 2.0,
        "cdc_overflow_cells": 0,
        "cdc_dead_cells": {"ambiguous": 3, "infinity": 12},
        "cdc_ships": len(SHIPS),
        "cdc_verified_ships": 6,
        "cdc_verified_age_seconds": 16 * 86_400.0,
        "cdc_verify_required": 0.0,
        "cdc_backfill_slices": {"waiting": 210, "running": 4, "done": 1_322, "failed": 2},
        "cdc_backfill_rows": 131_870_000,
        "cdc_backfill_rows_left": 21_200_000,
        "cdc_backfill_rows_per_second": 148_000.0,
        "cdc_backfill_eta_seconds": 143.0,
    }


def usual_fleet() -> Fleet:
    """Three months of history of eight ships, most of it copied and proven."""
    now = datetime.now(UTC)
    now_us = int(now.timestamp()) * 1_000_000
    start_us = (now_us // DAY_US - DAYS + 1) * DAY_US
    history = {ship: _cells(number) for number, ship in enumerate(SHIPS)}
    newest: dict[str, int | None] = {
        ship: now_us - seconds * 1_000_000
        for ship, seconds in zip(SHIPS, (14, 9, 21, 3_900, 17, 12, 260_000, 8), strict=True)
    }
    verified = {
        ship: start_us + DAY_US * cells.rindex("v") + DAY_US if "v" in cells else None
        for ship, cells in history.items()
    }
    return Fleet(newest, verified, Span(start_us, DAY_US, DAYS), history)


def _cells(ship: int) -> str:
    proven = max(0, 74 - 9 * (ship % 4)) if ship < 6 else 0
    begun = 22 if ship == 6 else 0
    cells = "." * begun + "v" * (proven - begun) + "d" * (83 - max(proven, begun)) + "rrwwwww"
    return cells if ship != 4 else f"{cells[:70]}f{cells[71:]}"


def usual_counts() -> Snapshot:
    """Twelve partitions, one of them a little behind."""
    lag = {number: (137 * number * number) % 61 for number in range(12)}
    lag[7] = 4_180
    positions = {number: 8_400_000 + 91_371 * number for number in range(12)}
    late_s = {number: 7.4 if number == 7 else 0.4 if messages else 0.0 for number, messages in lag.items()}
    return Snapshot(lag=lag, late_s=late_s, positions=positions, ready=True)


def usual_rates() -> Rates:
    """An hour of a steady fleet with bursts."""
    rates, samples, rows = Rates(), 0, 0
    for at in range(181):
        rates.points.append(Point(at * EVERY_S, samples, rows, 0.4 + 2 * max(0.0, math.sin(at / 9)) ** 8))
        pace = 561 + 140 * math.sin(at / 4) + (900 if 96 < at < 108 else 0)
        samples, rows = samples + round(pace * EVERY_S), rows + round(pace * EVERY_S / 43)
    return rates


def no_target() -> Connection:
    """A target that is away."""
    raise UnreachableError("away")


@dataclass
class PageWorld:
    """A page; what a test changes before it looks is shown."""

    counts: Snapshot = field(default_factory=usual_counts)
    gauges: dict[str, Any] = field(default_factory=usual_gauges)
    fleet: Fleet = field(default_factory=usual_fleet)
    rates: Rates = field(default_factory=usual_rates)
    exports: Exports | None = None
    more_script: bytes = b""  # what a person would do, at the end of export.js
    error: Exception | None = None
    asked: int = 0
    now_s: float = 0.0

    def page(self, **settings: Any) -> StatusPage:
        """The page under these settings."""
        sources = Sources(
            "narrow_to_wide",
            lambda: self.counts,
            lambda: self.counts.ready,
            self._watched,
            self.rates,
            self._read,
        )
        chosen = ConsumerSettings(**settings)
        exports = self.exports or Exports(no_target, chosen.page_exports)
        return StatusPage(chosen, sources, exports, lambda: self.now_s)

    def _watched(self) -> Gauges:
        return self.gauges

    def _read(self) -> Fleet:
        self.asked += 1
        if self.error:
            raise self.error
        return self.fleet

    @contextmanager
    def served(self, **settings: Any) -> Iterator[httpx.Client]:
        """A client of the page, served as `cdc-consumer run` does."""
        page = self.page(**settings)

        def answer(request: Request) -> Answer | Stream | None:
            found = page.answer(request)
            if request.path == "/export.js" and isinstance(found, Answer):
                return replace(found, body=found.body + self.more_script)
            return found

        probe = Probe(lambda: self.counts, lambda: 0.0, lambda: True, self._watched, answer)
        server = serve("127.0.0.1", 0, probe)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
                yield client
        finally:
            server.shutdown()
            server.server_close()
