"""Gauges read from the control schema: what waits, what is dead, how far history and its proof are."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from threading import Event

import pytest

from cdc_consumer.fleet import read_fleet
from cdc_consumer.settings import load_settings
from cdc_consumer.target_facts import OLD_S, TargetFacts, read_facts
from tests.waiting import wait_until
from tests.writer_samples import SHIP, SISTER, SPEED, created
from tests.writer_world import WriterWorld
from widetable.errors import UnreachableError

pytest_plugins = ["tests.writer_fixture"]
pytestmark = pytest.mark.postgres


def us(text: str) -> int:
    """Microseconds of a moment in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


WRITTEN = """
INSERT INTO overflow_cell (ship_id, created_time, channel_id, reason)
    VALUES ('S', '2026-01-01', 'a', 'no_channel'), ('S', '2026-01-01', 'b', 'no_channel');
INSERT INTO dead_cell (pipeline, ship_id, channel_id, created_time, reason, detail)
    VALUES ('p', 'S', 'a', 'x', 'nul', ''), ('p', 'S', 'b', 'x', 'nul', ''), ('p', 'S', 'c', 'x', 'infinity', ''),
           ('other', 'S', 'd', 'x', 'nul', '');
INSERT INTO plan (pipeline, ships) VALUES ('p', '{S}'), ('other', '{S}');
INSERT INTO slice (plan_id, slice_no, state, rows, estimate, started_at, done_at) VALUES
    (1, 1, 'done', 600, 500, now() - interval '20 s', now() - interval '10 s'),
    (1, 2, 'done', 600, 500, now() - interval '10 s', now()),
    (1, 3, 'running', NULL, 1200, now(), NULL),
    (1, 4, 'waiting', NULL, 600, NULL, NULL), (1, 5, 'failed', NULL, 7, NULL, NULL),
    (1, 6, 'split', NULL, 9, NULL, NULL),
    (2, 1, 'done', 10000, 1, now(), now());
INSERT INTO verified (pipeline, ship_id, verified_through, cells) VALUES
    ('p', 'S', now() AT TIME ZONE 'UTC' - interval '1 h', 1),
    ('p', 'T', now() AT TIME ZONE 'UTC' - interval '2 h', 1),
    ('other', 'S', now() AT TIME ZONE 'UTC' - interval '9 h', 1);
INSERT INTO settled (pipeline, epoch, settled_lsn, updated_at) VALUES ('p', 1, '0/1', now() - interval '5 s');
"""


PLANNED = f"""
INSERT INTO plan (pipeline, ships, created_at) VALUES ('p', ARRAY['{SHIP}'], '2026-01-04 12:00Z');
INSERT INTO slice (plan_id, slice_no, state, lower_us, upper_us) VALUES
    (1, 1, 'done', NULL, {us("2026-01-02")}), (1, 2, 'done', {us("2026-01-02")}, {us("2026-01-03")}),
    (1, 3, 'running', {us("2026-01-03")}, NULL);
"""
VERIFIED = (
    "INSERT INTO verified (pipeline, ship_id, verified_through, cells) VALUES ('p', %s, '2026-01-02', 1)"
)


def test_an_empty_target_says_so(own_world: WriterWorld) -> None:
    """Nothing waits, nothing is dead, nothing is left to copy; what was never proven has no age."""
    facts = read_facts(own_world.conn, "p")
    assert facts["cdc_overflow_cells"] == 0
    assert facts["cdc_dead_cells"] == {}
    assert facts["cdc_backfill_slices"] == {"waiting": 0, "running": 0, "done": 0, "failed": 0}
    assert (facts["cdc_backfill_rows_per_second"], facts["cdc_backfill_eta_seconds"]) == (0, 0)
    assert not {"cdc_verified_age_seconds", "cdc_settled_age_seconds"} & facts.keys()


def test_facts_are_those_of_the_pipeline(own_world: WriterWorld) -> None:
    """Cells, reasons, slices by state, pace and time left; another pipeline's are not counted."""
    own_world.conn.execute(WRITTEN)
    facts = read_facts(own_world.conn, "p")
    assert facts["cdc_overflow_cells"] == 2
    assert facts["cdc_dead_cells"] == {"infinity": 1, "nul": 2}
    assert facts["cdc_backfill_slices"] == {"waiting": 1, "running": 1, "done": 2, "failed": 1}
    assert (facts["cdc_backfill_rows"], facts["cdc_backfill_rows_left"]) == (1_200, 1_800)
    assert facts["cdc_backfill_rows_per_second"] == pytest.approx(60, rel=0.1)  # 1,200 rows since 20 s
    assert facts["cdc_backfill_eta_seconds"] == pytest.approx(30, rel=0.1)
    assert facts["cdc_verified_ships"] == 2
    assert facts["cdc_verified_age_seconds"] == pytest.approx(7_200, abs=60)
    assert facts["cdc_settled_age_seconds"] == pytest.approx(5, abs=3)
    assert facts["cdc_verify_required"] == 0


def test_a_target_that_is_away_leaves_no_old_numbers() -> None:
    """What was read before is forgotten, and the next reading that works is taken."""
    answers: list[Exception | float] = [1.0, UnreachableError("away"), 2.0, ZeroDivisionError("a bug")]

    def read() -> dict[str, float]:
        match answers.pop(0):
            case Exception() as error:
                raise error
            case value:
                return {"cdc_overflow_cells": value}

    facts = TargetFacts(read)
    facts.step()
    wait_until(lambda: facts.gauges() == {"cdc_overflow_cells": 1.0}, "the thread has read")
    for expected in ({}, {"cdc_overflow_cells": 2.0}, {}):
        facts._read_once()
        assert facts.gauges() == expected


def test_a_reading_that_hangs_leaves_no_old_numbers() -> None:
    """A target that is stopped but takes the connection ends no reading: what the last one found grows old."""
    now, goes_on, readings = [0.0], Event(), count(1)

    def read() -> dict[str, float]:
        if (reading := next(readings)) == 2:
            assert goes_on.wait(30)
        return {"cdc_overflow_cells": float(reading)}

    facts = TargetFacts(read, lambda: now[0])
    facts._read_once()
    facts.step()
    now[0] += OLD_S - 1
    assert facts.gauges() == {"cdc_overflow_cells": 1.0}
    now[0] += 2
    facts.step()
    assert facts.gauges() == {}
    goes_on.set()
    wait_until(lambda: facts.gauges() == {"cdc_overflow_cells": 2.0}, "the thread has read")


def test_ships_show_their_newest_moment_and_their_history(target_dsn: str, own_world: WriterWorld) -> None:
    """Over all tables of a ship; open ends of plans reach from before the first bound until the plan was made."""
    settings = load_settings(
        {"CDC_SOURCE__DSN": target_dsn, "CDC_TARGET__DSN": target_dsn, "CDC_PIPELINE__NAME": "p"}
    )
    settings = settings.model_copy(update={"target": own_world.settings})
    empty = read_fleet(settings)
    assert (empty.newest_us, empty.span) == ({SHIP: None, SISTER: None}, None)
    own_world.write([created("1", moment_us=5_000_000), created("2", SPEED, moment_us=9_000_000)])
    own_world.conn.execute(PLANNED.encode())
    own_world.conn.execute(VERIFIED, [SHIP])
    fleet = read_fleet(settings)
    assert fleet.newest_us == {SHIP: 9_000_000, SISTER: None}
    assert fleet.span is not None
    assert fleet.span.buckets == 4
    assert fleet.history == {SHIP: "vdrr", SISTER: "...."}
    assert fleet.facts()["history"]["days"] == ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
