"""The main job on the real chain: history and stream on the same moments, crashes included, to the last cell."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from devstack.fleet import HistoryReport, LiveLoad, plan_fleet, write_history
from devstack.product import Process

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

TUPLES = "SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0) FROM pg_stat_user_tables WHERE schemaname = 'tenant'"
OVERFLOW = "SELECT count(*) FROM overflow_cell"
SHIPS = 3
NOW = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0)


def history_of(source: str, rows: int) -> HistoryReport:
    """Some history, with statistics as a database in use has them."""
    history = write_history(source, plan_fleet(SHIPS, seed=7), rows, NOW - timedelta(hours=1))
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("ANALYZE tenant.tbl_data_timeseries")
    return history


def load_on(source: str, history: HistoryReport, rows_per_second: float) -> LiveLoad:
    """A fleet that writes new moments and changes those of history."""
    return LiveLoad(
        source,
        plan_fleet(SHIPS, seed=7),
        start=NOW,
        history=(history.first_moment, history.until),
        rows_per_second=rows_per_second,
    )


def wait_until(condition: Any, what: str, seconds: float = 60.0) -> None:
    """Poll a condition until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


def logged(process: Process) -> str:
    """What a process wrote, for the message of a failed assertion."""
    return process.log.read_text()[-4000:]


def test_history_and_stream_meet_without_a_difference(pipeline: Any) -> None:
    """Backfill and stream work on the same moments at the same time; every cell ends as the source has it."""
    history = history_of(pipeline.source, 120_000)
    pipeline.hand_off()
    consumer = pipeline.consume(processes=2)
    with load_on(pipeline.source, history, 3_000) as load:
        cutoff = history.until.isoformat()
        pipeline.succeed("backfill", "run", "--cutoff-time", cutoff, "--rate-limit", "20000")
        report = load.stop()
    assert report.updates
    assert report.deletes
    assert report.reinserts
    assert report.unknown_channel
    assert consumer.running, logged(consumer)
    wait_until(lambda: pipeline.target_value(OVERFLOW) == 0, "overflow is drained")
    pipeline.verify()
    assert consumer.terminate() == 0, logged(consumer)
    assert pipeline.target_value("SELECT count(*) FROM dead_cell") == 0
    assert pipeline.target_value("SELECT count(*) FROM slice WHERE state <> 'done'") == 0


def test_kill_9_of_consumer_and_backfill_at_random_points_loses_nothing(pipeline: Any) -> None:
    """Both programs are killed again and again under load and started again; then nothing differs."""
    moments = random.Random(11)
    history = history_of(pipeline.source, 100_000)
    pipeline.hand_off()
    with load_on(pipeline.source, history, 2_500):
        backfill: Process | None = None
        for _ in range(4):
            consumer = pipeline.consume(processes=1)
            backfill = pipeline.product.start("backfill", "run", "--rate-limit", "15000")
            time.sleep(moments.uniform(2.0, 6.0))
            consumer.kill()
            backfill.kill()
        consumer = pipeline.consume(processes=1)
        pipeline.succeed("backfill", "run")
    wait_until(lambda: pipeline.target_value(OVERFLOW) == 0, "overflow is drained")
    pipeline.verify()
    assert consumer.terminate() == 0, logged(consumer)


def test_a_second_replay_of_the_whole_topic_writes_no_tuple(pipeline: Any) -> None:
    """The ledger is set back to the start: everything is read again, nothing is written again."""
    history = history_of(pipeline.source, 20_000)
    pipeline.hand_off()
    consumer = pipeline.consume()
    with load_on(pipeline.source, history, 4_000) as load:
        wait_until(lambda: load.report().events > 20_000, "enough events")
    pipeline.succeed("backfill", "run")
    wait_until(lambda: pipeline.target_value(OVERFLOW) == 0, "overflow is drained")
    pipeline.verify()
    assert consumer.terminate() == 0, logged(consumer)

    end = pipeline.target_value("SELECT sum(next_offset) FROM offset_ledger")
    with psycopg.connect(pipeline.target, autocommit=True) as conn:
        conn.execute("UPDATE cdc.offset_ledger SET next_offset = 0")
    before = pipeline.target_value(TUPLES)
    consumer = pipeline.consume()
    reached = "SELECT coalesce(sum(next_offset), 0) FROM offset_ledger"
    wait_until(lambda: pipeline.target_value(reached) >= end, "the topic is read again")
    assert consumer.terminate() == 0, logged(consumer)
    assert before > 0
    assert pipeline.target_value(TUPLES) == before
    pipeline_report = pipeline.product.run("backfill", "verify", "--no-settle", quiet=True)
    assert pipeline_report.returncode == 0, pipeline_report.stdout
