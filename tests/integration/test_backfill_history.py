"""Where the rows lie, found out on a real source without reading it all."""

from __future__ import annotations

import pytest

from backfill import history
from backfill.history import look_at_history
from backfill.planner import cut
from backfill.scope import Scope
from tests.backfill_world import SHIPS, World
from widetable.moments import parse_moment
from widetable.settings import SourceSettings

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

WHOLE = Scope(SHIPS)
NEVER_COUNT = -1


def look(world: World, scope: Scope = WHOLE, slice_rows: int = 100) -> history.History:
    """The history of the world's source."""
    return look_at_history(world.source, world.settings().source, scope, slice_rows)


def rows_of_slices(world: World, found: history.History, aim: int) -> list[int]:
    """How many rows each slice of a plan really has."""
    slices = cut(None, None, found.segments, aim)
    query = (
        "SELECT count(*) FROM tenant.tbl_data_timeseries"
        " WHERE extract(epoch FROM created_time) * 1000000 >= coalesce(%s::bigint, '-infinity'::numeric)"
        " AND extract(epoch FROM created_time) * 1000000 < coalesce(%s::bigint, 'infinity'::numeric)"
    )
    counts = [world.source.execute(query, [part.lower_us, part.upper_us]).fetchone() for part in slices]
    return [row[0] for row in counts if row]


def test_a_small_table_is_counted_exactly(world: World) -> None:
    """Rows are exact, and slices come out even although the rows don't lie evenly."""
    rows = world.fill(100)
    rows += world.fill(300, start="2025-03-01 00:00:00")
    found = look(world)
    assert (found.basis, found.rows, found.indexed) == ("counted", rows, True)
    sizes = rows_of_slices(world, found, 360)
    assert sum(sizes) == rows
    assert len(sizes) == 20
    assert max(sizes) <= 2 * 360


def test_one_clock_that_jumped_does_not_spoil_the_plan(world: World) -> None:
    """A moment decades away leaves the slices of all others as they were."""
    world.fill(200)
    world.add("1970-01-01", 1.0)
    world.add("2099-12-31", 1.0)
    assert max(rows_of_slices(world, look(world), 360)) <= 2 * 360


def test_a_large_table_is_estimated_from_statistics(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ANALYZE the planner knows how many rows lie where, also of one ship."""
    monkeypatch.setattr(history, "COUNT_BYTES", NEVER_COUNT)
    rows = world.fill(200) + world.fill(200, start="2025-02-01 00:00:00")
    world.source.execute("ANALYZE tenant.tbl_data_timeseries")
    found = look(world)
    assert found.basis == "statistics"
    assert found.rows == pytest.approx(rows, rel=0.1)
    assert look(world, Scope(SHIPS[:1])).rows == pytest.approx(rows / 3, rel=0.15)
    half = Scope(SHIPS, parse_moment("2025-01-15"), None)
    assert look(world, half).rows == pytest.approx(rows / 2, rel=0.15)
    assert max(rows_of_slices(world, found, 720)) <= 3 * 720


def test_a_table_never_analysed_is_guessed_from_its_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No statistics: the guess is of the right order, and the answer says that it is one."""
    monkeypatch.setattr(history, "COUNT_BYTES", NEVER_COUNT)
    world.source.execute("ALTER TABLE tenant.tbl_data_timeseries SET (autovacuum_enabled = false)")
    rows = world.fill(300)
    found = look(world)
    assert found.basis == "guessed"
    assert rows / 5 < found.rows < rows * 5


def test_partitions_are_one_table(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partitioned source is sized and estimated by its partitions."""
    world.source.execute(
        "CREATE TABLE tenant.parts (LIKE tenant.tbl_data_timeseries) PARTITION BY RANGE (created_time)"
    )
    for start, end in (("-infinity", "2025-01-01 00:30:00"), ("2025-01-01 00:30:00", "infinity")):
        world.source.execute(
            f'CREATE TABLE tenant."part {start}" PARTITION OF tenant.parts'
            f" FOR VALUES FROM ('{start}') TO ('{end}')".encode()
        )
    world.source.execute("CREATE INDEX ON tenant.parts (created_time)")
    rows = world.fill(240)
    world.source.execute("INSERT INTO tenant.parts SELECT * FROM tenant.tbl_data_timeseries")
    source = SourceSettings.model_validate({"dsn": world.source_dsn, "table": "tenant.parts"})
    assert look_at_history(world.source, source, WHOLE, 100).rows == rows
    monkeypatch.setattr(history, "COUNT_BYTES", NEVER_COUNT)
    world.source.execute("ANALYZE tenant.parts")
    found = look_at_history(world.source, source, WHOLE, 100)
    assert (found.basis, found.indexed) == ("statistics", True)
    assert found.rows == pytest.approx(rows, rel=0.1)


def test_alignment_is_sampled(world: World) -> None:
    """Aligned moments make one wide row of six samples; scattered ones make one each."""
    world.fill(50)
    assert look(world).wide_rows_per_row == pytest.approx(1 / 6)
    world.source.execute("TRUNCATE tenant.tbl_data_timeseries")
    for second in range(30):
        world.add(f"2025-01-01 00:00:{second}", 1.0)
    assert look(world).wide_rows_per_row == 1.0


def test_a_missing_index_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an index on created_time each slice reads the whole table: the plan says so."""
    world.fill(3)
    world.source.execute("DROP INDEX tenant.tbl_data_timeseries_created_time_idx")
    assert world.backfill("plan") == 0
    assert "CREATE INDEX CONCURRENTLY" in capsys.readouterr().out
