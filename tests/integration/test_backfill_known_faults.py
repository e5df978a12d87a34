"""Faults of the polling scripts that came before, each held down by name (docs/coming-from-polling.md)."""

from __future__ import annotations

import pytest

from tests.backfill_world import SHIPS, START, World
from widetable.errors import ExitCode

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

INSERT = """
INSERT INTO tenant.tbl_data_timeseries
    (ship_id, data_channel_id, created_time, value_format, double_v, long_v, str_v, bool_v)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""


def test_a_batch_takes_the_columns_of_all_its_rows(world: World) -> None:
    """The first row has one channel, later ones have others: all arrive, and none is made NULL."""
    world.add("2025-01-01 00:00:00", 1.0, channel="engine/1")
    world.add("2025-01-01 00:00:15", 2.0, channel="engine/2")
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    world.add(
        "2025-01-01 00:00:00", 3.0, channel="engine/2"
    )  # of a row that is there, without the other column
    assert world.backfill("run", "--again") == ExitCode.DONE
    assert world.wide_cells() == world.narrow_cells()
    assert len(world.wide_cells()) == 3


def test_one_table_that_can_not_be_written_leaves_its_slice_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of such a slice no other table has a row, and it does not count as copied."""
    monkeypatch.setenv("CDC_BACKFILL__ATTEMPTS", "1")
    monkeypatch.setenv("CDC_BACKFILL__SLICE_ROWS", "100000")
    world.fill(4)
    world.hand_off()
    name = world.wide_table(SHIPS[0], 3).as_string()
    world.target.execute(f"ALTER TABLE {name} ADD CHECK (created_time < timestamp '{START}')".encode())
    assert world.backfill("run") == ExitCode.PARTIAL
    assert world.states() == {"failed": 1}
    assert world.wide_cells() == {}
    assert world.one("SELECT finished_at IS NULL FROM plan") is True


def test_booleans_strings_and_large_integers_arrive_to_the_letter(world: World) -> None:
    """No float in between: 2^53 + 1 stays what it is, and so does an empty string."""
    large = 2**53 + 1
    rows = [
        ("engine/1", "Integer", None, large, None, None, str(large)),
        ("engine/2", "Boolean", None, None, None, False, "false"),
        ("nav/1", "String", None, None, "", None, ""),
        ("nav/2", "String", None, None, "NULL", None, "NULL"),
    ]
    for channel, value_format, *values, _ in rows:
        world.source.execute(INSERT, [SHIPS[0], channel, START, value_format, *values])
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    found = {channel: value for (_, _, channel), value in world.wide_cells().items()}
    assert found == {channel: text for channel, *_, text in rows}
