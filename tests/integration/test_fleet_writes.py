"""The fleet simulator on a real PostgreSQL: what it reports is what happened."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg.conninfo import make_conninfo

from devstack.fleet import FleetPlan, LiveLoad, LiveReport, Mix, plan_fleet, write_history
from devstack.fleet.history import history_minutes, history_samples
from widetable.errors import ConfigurationError, UnreachableError
from widetable.narrow import FORMATS, VALUE_COLUMNS

pytestmark = pytest.mark.postgres

UNTIL = datetime(2024, 5, 1)
READ_SQL = """
SELECT ship_id, data_channel_id, created_time, bool_v, str_v, long_v, double_v, value_format
FROM tenant.tbl_data_timeseries ORDER BY 1, 2, 3
"""


@pytest.fixture
def fleet() -> FleetPlan:
    """Two ships, every tenth channel."""
    return plan_fleet(2, channels=plan_fleet().channels[::10], seed=5)


def count_rows(dsn: str) -> int:
    """Rows of the narrow table."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT count(*) FROM tenant.tbl_data_timeseries").fetchone()
    assert row is not None
    return int(row[0])


def read_rows(dsn: str) -> list[str]:
    """All rows as comparable text, NaN and -0 included, without id and server time."""
    with psycopg.connect(dsn) as conn:
        return [repr(row) for row in conn.execute(READ_SQL)]


@contextmanager
def watched_wal(dsn: str) -> Iterator[Counter[str]]:
    """Counts the logical changes of the narrow table: I, D, U, and K for updates that change the key."""
    changes: Counter[str] = Counter()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE PUBLICATION fleet_watch FOR TABLE tenant.tbl_data_timeseries")
        conn.execute("SELECT pg_create_logical_replication_slot('fleet_watch', 'pgoutput', true)")
        yield changes
        options = ["proto_version", "1", "publication_names", "fleet_watch"]
        query = "SELECT data FROM pg_logical_slot_get_binary_changes('fleet_watch', NULL, NULL, VARIADIC %s)"
        changes.update(kind for (data,) in conn.execute(query, [options]) if (kind := change_kind(data)))


def change_kind(message: bytes) -> str | None:
    """The kind of a pgoutput message; byte 5 of an update is K when the old key comes along."""
    if message[:1] == b"U" and message[5:6] == b"K":
        return "K"
    kind = message[:1].decode()
    return kind if kind in {"I", "U", "D"} else None


def test_history_is_the_samples_of_the_plan(source_dsn: str, fleet: FleetPlan) -> None:
    """Every value comes back from PostgreSQL as it was drawn, nasty ones included."""
    report = write_history(source_dsn, fleet, 20_000, UNTIL)
    minutes, surplus = history_minutes(fleet, 20_000, report_minute(report.until))
    table = pa.Table.from_batches(list(history_samples(fleet, minutes, surplus)))
    expected = sorted(table.to_pylist(), key=lambda row: tuple(row.values())[:3])
    with psycopg.connect(source_dsn) as conn:
        rows: list[tuple[Any, ...]] = sorted(conn.execute(READ_SQL).fetchall(), key=lambda row: row[:3])
    assert [repr(row) for row in rows] == [repr(tuple(row.values())) for row in expected]


def report_minute(moment: datetime) -> int:
    """Minutes from 1970, computed in another way than the simulator does."""
    return (moment - datetime(1970, 1, 1)) // timedelta(minutes=1)


def test_a_history_reports_what_it_wrote(source_dsn: str, fleet: FleetPlan) -> None:
    """Exactly the rows asked for, in the span reported, with ids and a server time."""
    report = write_history(source_dsn, fleet, 12_345, UNTIL)
    assert report.rows == count_rows(source_dsn) == 12_345
    assert report.until == UNTIL
    with psycopg.connect(source_dsn) as conn:
        query = """SELECT min(created_time), max(created_time), count(DISTINCT id), count(server_created_time)
                   FROM tenant.tbl_data_timeseries"""
        row = conn.execute(query).fetchone()
    assert row is not None
    first, last, ids, stamped = row
    assert report.first_moment <= first <= last < report.until
    assert last == UNTIL - timedelta(seconds=15)
    assert ids == stamped == 12_345


def test_a_history_is_written_whole_or_not_at_all(source_dsn: str, fleet: FleetPlan) -> None:
    """Written twice, the second fails by name and leaves nothing behind."""
    write_history(source_dsn, fleet, 500, UNTIL)
    with pytest.raises(ConfigurationError, match="already"):
        write_history(source_dsn, fleet, 2_000, UNTIL)
    assert count_rows(source_dsn) == 500


def test_all_formats_are_stored_in_their_column(source_dsn: str, fleet: FleetPlan) -> None:
    """value_format names the column that is set."""
    write_history(source_dsn, fleet, 20_000, UNTIL)
    query = "SELECT value_format, " + ", ".join(f"count({name})" for name in VALUE_COLUMNS)
    with psycopg.connect(source_dsn) as conn:
        rows = conn.execute((query + " FROM tenant.tbl_data_timeseries GROUP BY 1").encode()).fetchall()
    counts = {name: set_in for name, *set_in in rows}
    assert set(counts) == set(FORMATS)
    for position, name in enumerate(FORMATS):
        assert [n > 0 for n in counts[name]] == [i == position for i in range(len(FORMATS))]


def test_the_report_is_what_postgresql_logged(source_dsn: str, fleet: FleetPlan) -> None:
    """Each kind of change happened, and the counts are those of the WAL and of the table."""
    history = write_history(source_dsn, fleet, 10_000, UNTIL)
    before = count_rows(source_dsn)
    span = (history.first_moment, history.until)
    load = LiveLoad(source_dsn, fleet, start=UNTIL, history=span, mix=Mix(moves=6))
    with watched_wal(source_dsn) as changes:
        report = load.write_bursts(20)
    assert count_rows(source_dsn) - before == report.rows_added == changes["I"] - changes["D"]
    assert changes["D"] == report.deletes
    assert changes["K"] == report.key_changes
    assert changes["U"] == report.updates + report.null_updates
    ship_changes = report.events - changes.total()
    assert 0 < ship_changes < report.key_changes
    for kind, count in all_counts(report).items():
        assert count > 0, kind
    assert report.bursts == 20
    assert report.started_at < report.ended_at


def all_counts(report: LiveReport) -> dict[str, int]:
    """Every number of a report."""
    fields: dict[str, Any] = json.loads(report.to_json())
    return {name: value for name, value in fields.items() if isinstance(value, int)}


def test_a_sample_that_is_there_is_a_duplicate(source_dsn: str, fleet: FleetPlan) -> None:
    """A second collector that writes the same bursts adds nothing and leaves no trace in the WAL."""
    calm = Mix(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    first = LiveLoad(source_dsn, fleet, start=UNTIL, mix=calm).write_bursts(4)
    with watched_wal(source_dsn) as changes:
        second = LiveLoad(source_dsn, fleet, start=UNTIL, mix=calm).write_bursts(4)
    assert (second.inserts, second.late, second.events) == (0, 0, 0)
    assert second.duplicates == first.inserts + first.late == count_rows(source_dsn)
    assert changes.total() == 0


def test_same_seed_same_table(source_dsn: str, one_dsn: str, fleet: FleetPlan) -> None:
    """History and live load with all their changes end in the same rows on two databases."""
    for dsn in (source_dsn, one_dsn):
        history = write_history(dsn, fleet, 5_000, UNTIL)
        LiveLoad(dsn, fleet, start=UNTIL, history=(history.first_moment, history.until)).write_bursts(12)
    rows = read_rows(source_dsn)
    assert len(rows) > 5_000
    assert rows == read_rows(one_dsn)


def test_live_rows_stand_in_the_order_of_the_collector(source_dsn: str, fleet: FleetPlan) -> None:
    """Channel-major: in order of id, each channel of a burst is one run."""
    plan = plan_fleet(1, channels=fleet.channels, order="channel")
    LiveLoad(source_dsn, plan, start=UNTIL, mix=Mix(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)).write_bursts(1)
    with psycopg.connect(source_dsn) as conn:
        rows = conn.execute("SELECT data_channel_id FROM tenant.tbl_data_timeseries ORDER BY id").fetchall()
    runs = 1 + sum(a != b for a, b in pairwise(rows))
    assert runs == len(set(rows)) > 50


def test_a_started_load_stops_with_all_of_its_report_committed(source_dsn: str, fleet: FleetPlan) -> None:
    """The thread ends after its burst; the table holds what the report says."""
    load = LiveLoad(source_dsn, fleet, start=UNTIL).start()
    assert not load.wait(0.2)
    report = load.stop()
    assert report.bursts > 0
    assert count_rows(source_dsn) == report.rows_added
    assert load.wait(0)


def test_a_load_keeps_its_rate(source_dsn: str, fleet: FleetPlan) -> None:
    """At a slow rate only the first burst goes out; the second waits for its time."""
    with LiveLoad(source_dsn, fleet, start=UNTIL, rows_per_second=1.0) as load:
        assert not load.wait(1.0)
        assert load.report().bursts == 1


def test_a_load_that_waits_for_a_lock_says_so(source_dsn: str, fleet: FleetPlan) -> None:
    """stop() does not hang behind somebody's lock, and the load goes on once it is gone."""
    with psycopg.connect(source_dsn) as conn:
        conn.execute("LOCK TABLE tenant.tbl_data_timeseries")
        load = LiveLoad(source_dsn, fleet, start=UNTIL).start()
        with pytest.raises(TimeoutError, match="who locks the table"):
            load.stop(timeout_s=0.1)
    assert load.wait(30)
    assert load.stop().rows_added == count_rows(source_dsn)


def test_a_failing_block_ends_its_load_and_keeps_its_error(source_dsn: str, fleet: FleetPlan) -> None:
    """The load's own report never hides what went wrong around it."""
    load = LiveLoad(source_dsn, fleet, start=UNTIL)
    with pytest.raises(ZeroDivisionError), load:
        raise ZeroDivisionError
    assert load.wait(0)
    assert load.report().rows_added == count_rows(source_dsn)


def test_a_missing_right_is_named(source_dsn: str, fleet: FleetPlan) -> None:
    """A role that may not write learns which table it needs."""
    read_only = make_conninfo(source_dsn, options="-c role=pg_read_all_data")
    with pytest.raises(ConfigurationError, match=r"permission denied.*grant it"):
        write_history(read_only, fleet, 10, UNTIL)


def test_trouble_is_named(source_dsn: str, fleet: FleetPlan) -> None:
    """No server and no table are told apart, when the load starts."""
    with pytest.raises(UnreachableError, match="Is it up"):
        LiveLoad("host=127.0.0.1 port=1", fleet, start=UNTIL).start()
    with psycopg.connect(source_dsn) as conn:
        conn.execute("DROP TABLE tenant.tbl_data_timeseries")
    with pytest.raises(ConfigurationError, match="narrow table"):
        write_history(source_dsn, fleet, 10, UNTIL)
    load = LiveLoad(source_dsn, fleet, start=UNTIL).start()
    assert load.wait(30)
    with pytest.raises(ConfigurationError, match="narrow table"):
        load.stop()
