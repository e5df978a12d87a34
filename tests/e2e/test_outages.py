"""Parts of the real chain go away under load and come back: the consumer pauses and goes on by itself."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import pytest

from devstack.fleet import LiveLoad, plan_fleet
from devstack.product import Process
from devstack.stack import Stack
from tests.e2e.test_main_job import NOW, OVERFLOW, logged, wait_until

pytestmark = [pytest.mark.outage, pytest.mark.stack, pytest.mark.timeout(300)]

AWAY_S = 8.0
"""Longer than a session of the group and than several of the consumer's pauses."""


def fleet_on(source: str, hour: int = 0) -> LiveLoad:
    """A fleet that writes and changes moments from that hour on."""
    start = NOW + timedelta(hours=hour)
    return LiveLoad(source, plan_fleet(2, seed=3), start=start, rows_per_second=2_000)


def applied(pipeline: Any) -> int:
    """Offsets that the ledger has passed."""
    return int(pipeline.target_value("SELECT coalesce(sum(next_offset), 0) FROM offset_ledger"))


def ended_well(pipeline: Any, consumer: Process) -> None:
    """Nothing differs, nothing is dead, and it is still the process that was started."""
    wait_until(lambda: pipeline.target_value(OVERFLOW) == 0, "overflow is drained")
    pipeline.verify()
    assert consumer.running, logged(consumer)
    assert consumer.terminate() == 0, logged(consumer)
    assert pipeline.target_value("SELECT count(*) FROM dead_cell") == 0


def test_a_broker_that_is_killed_and_comes_back_costs_nothing(pipeline: Any, stack: Stack) -> None:
    """The consumer waits for it; the events of the meantime follow."""
    pipeline.hand_off()
    consumer = pipeline.consume()
    with fleet_on(pipeline.source) as load:
        wait_until(lambda: applied(pipeline) > 2_000, "the stream flows")
        stack.kafka.kill()
        away_until = time.monotonic() + AWAY_S
        wait_until(lambda: time.monotonic() > away_until, "the outage is over")
        stack.kafka.start()
        before = applied(pipeline)
        wait_until(lambda: applied(pipeline) > before + 2_000, "the stream flows again")
        load.stop()
    ended_well(pipeline, consumer)


def test_a_database_that_is_killed_and_comes_back_costs_nothing(pipeline: Any, stack: Stack) -> None:
    """Source and target crash together; the consumer pauses, polls on, claims again."""
    pipeline.hand_off()
    report = pipeline.folder / "consumer.json"
    consumer = pipeline.product.start("cdc-consumer", "run", "--report", str(report))
    with fleet_on(pipeline.source) as load:
        wait_until(lambda: applied(pipeline) > 2_000, "the stream flows")
        load.stop()
    stack.postgres.kill()
    wait_until(lambda: "outage" in logged(consumer), "the consumer has noticed")
    away_until = time.monotonic() + AWAY_S
    wait_until(lambda: time.monotonic() > away_until, "the outage is over")
    assert consumer.running, logged(consumer)
    stack.postgres.start()
    with fleet_on(pipeline.source, hour=1) as load:
        before = applied(pipeline)
        wait_until(lambda: applied(pipeline) > before + 2_000, "the stream flows again", 90.0)
        load.stop()
    ended_well(pipeline, consumer)
    counts = json.loads(report.read_text())
    assert counts["outages"] > 0
    assert counts["dead"] == counts["dead_records"] == 0
