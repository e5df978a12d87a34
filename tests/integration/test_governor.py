"""Newcomers: channels and ships nobody has seen get their place while writers are at work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest
from psycopg import sql

from tests.governed_target import KNOWN, LISTS, NEW, Open, event, governed_targets
from widetable import governor
from widetable.channel_map import ChannelList
from widetable.ddl import apply_schema, check_tables
from widetable.errors import ConfigurationError
from widetable.governor import GovernorReport, govern
from widetable.narrow import Op
from widetable.postgres import Connection, connect_target
from widetable.registry import require_registry
from widetable.sampling import ChannelSample, Sample
from widetable.schema_plan import plan_schema
from widetable.settings import TargetSettings

pytestmark = pytest.mark.postgres


@pytest.fixture
def open_target(target_dsn: str) -> Iterator[Open]:
    """Makes targets with ship S1."""
    with governed_targets(target_dsn) as make:
        yield make


# -- channels -------------------------------------------------------------------------------------------------


def test_a_new_channel_gets_its_column_and_its_cells(open_target: Open) -> None:
    """What waited in overflow stands in the column, and what comes now goes straight there."""
    target = open_target(ships=("S1", "S2"))
    target.write(
        event(Op.CREATE, "1.5"), event(Op.CREATE, "2.5", ship="S2"), event(Op.CREATE, "9", channel=KNOWN)
    )
    report = target.govern()
    assert (report.new_channels, report.live_channels, report.drained_cells) == ([NEW], [NEW], 2)
    assert report.altered_tables == ["tbl_data_timeseries_s1_2", "tbl_data_timeseries_s2_2"]
    assert target.cells() == {(0, NEW): ("1.5", None), (0, KNOWN): ("9", None)}
    assert target.cells("S2") == {(0, NEW): ("2.5", None)}
    target.write(event(Op.CREATE, "3.5", moment_s=15))
    assert target.cells()[15, NEW] == ("3.5", None)
    assert target.overflow() == []
    assert check_tables(target.conn) == []


def test_a_step_with_nothing_to_do_changes_nothing(open_target: Open) -> None:
    """Writers are not made to read the layout again."""
    target = open_target()
    before = require_registry(target.conn).version
    assert target.govern() == GovernorReport()
    assert require_registry(target.conn).version == before


def test_a_new_channel_joins_the_table_of_its_prefix(open_target: Open) -> None:
    """Equipment of a known kind, else the default table; hostile names are only names."""
    target = open_target(default_table_no=3)
    names = ("/v1/ab07//x", 'x"y;-- %s', "é" * 40, "xmin")
    target.write(*(event(Op.CREATE, "1", channel=name) for name in names))
    assert sorted(target.govern().live_channels) == sorted(names)
    assert target.cells(table_no=1) == {(0, names[0]): ("1", None)}
    assert target.cells(table_no=3) == {(0, name): ("1", None) for name in names[1:]}


def test_the_step_ends_when_its_time_is_up(open_target: Open) -> None:
    """It says that there is more; the channel stays pending, and its cells in overflow, until a later step."""
    target = open_target()
    target.write(event(Op.CREATE, "1"))
    report = target.govern(step_s=-1)
    assert (report.new_channels, report.live_channels, report.more) == ([NEW], [], True)
    target.write(event(Op.CREATE, "2", moment_s=15))
    assert [row[-1] for row in target.overflow()] == ["no_channel", "pending"]
    assert target.govern().live_channels == [NEW]
    assert set(target.cells()) == {(0, NEW), (15, NEW)}


def test_one_governor_at_a_time(open_target: Open) -> None:
    """A second one does nothing; the lock ends with the session."""
    target = open_target()
    target.write(event(Op.CREATE, "1"))
    with connect_target(target.settings, "other") as other:
        other.execute("SET search_path = control_one")
        assert other.execute(governor.TRY_LOCK).fetchone() == (True,)
        assert target.govern() == GovernorReport(busy=True)
    report = target.govern()
    while report.busy:
        report = target.govern()
    assert report.live_channels == [NEW]


def test_a_long_query_delays_the_column_and_nothing_else(
    open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDL gives up after 0.5 s, is reported, and tried again; the other ships' tables have their column."""
    monkeypatch.setattr(governor, "BACKOFF_S", (0.01,))
    target = open_target(ships=("S1", "S2"))
    target.write(event(Op.CREATE, "1"))
    with connect_target(target.settings, "reader") as reader, reader.transaction():
        reader.execute("SELECT * FROM wide_one.tbl_data_timeseries_s1_2")
        report = target.govern()
        assert report.altered_tables == ["tbl_data_timeseries_s2_2"]
        assert report.live_channels == []
        assert "tbl_data_timeseries_s1_2" in report.stuck[0]
        target.write(event(Op.CREATE, "2", moment_s=15), event(Op.CREATE, "3", channel=KNOWN))
        assert target.cells() == {(0, KNOWN): ("3", None)}
    report = target.govern()
    assert (report.live_channels, report.altered_tables) == ([NEW], ["tbl_data_timeseries_s1_2"])
    assert target.cells() == {(0, NEW): ("1", None), (15, NEW): ("2", None), (0, KNOWN): ("3", None)}


def test_by_hand_means_that_a_person_lists_the_channel(open_target: Open) -> None:
    """Policy manual: reported, kept in overflow, and drained once `schema apply` registers it."""
    target = open_target(new_channels="manual", new_ships="manual")
    target.write(event(Op.CREATE, "1"), event(Op.CREATE, "2", ship="S9", channel=KNOWN))
    report = target.govern()
    assert report.waiting == [
        "ship S9: `schema apply --ship-id S9` adds it",
        f"channel {NEW}: list it and run `schema apply`",
    ]
    assert len(target.overflow()) == 2
    listed = (LISTS[0], ChannelList(2, "engine_generator", (*LISTS[1].channel_ids, NEW)), LISTS[2])
    plan = plan_schema(listed, Sample(("S1", "S9")), new_channels="manual", new_ships="manual")
    changes = apply_schema(target.conn, target.settings, plan)
    assert changes.pending == [f"channel {NEW}", "ship S9"]
    report = target.govern()
    assert (report.live_channels, report.live_ships) == ([NEW], ["S9"])
    assert target.cells() == {(0, NEW): ("1", None)}
    assert target.cells("S9") == {(0, KNOWN): ("2", None)}


def test_a_full_table_takes_no_more_channels(open_target: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel stays in overflow and is reported with the figures; others go on."""
    monkeypatch.setattr("widetable.planner.MAX_COLUMNS", 5)
    target = open_target()
    target.write(*(event(Op.CREATE, "1", channel=f"/v1/me09//{name}") for name in "ab"))
    target.write(event(Op.CREATE, "1", channel="/v1/ab09//a"))
    report = target.govern()
    assert sorted(report.live_channels) == ["/v1/ab09//a", "/v1/me09//a"]
    (reason,) = report.stuck
    assert reason.startswith(
        "channel /v1/me09//b stays in overflow: table 2 is full: 6 columns; a wide table can have 5"
    )
    assert target.overflow() == [("S1", "/v1/me09//b", "1", None, "no_channel")]


def test_rows_that_are_full_already_take_no_more_channels(open_target: Open) -> None:
    """The planner looks at the rows that are there, not only at what it expected; the message names the way out."""
    channels = tuple(f"/v1/me01//{i}" for i in range(400))
    lists = (LISTS[0], ChannelList(2, "engine_generator", channels), LISTS[2])
    target = open_target(lists=lists)
    target.write(*(event(Op.CREATE, "x" * 18, channel=channel, form="String") for channel in channels))
    target.write(event(Op.CREATE, "1"))
    (reason,) = target.govern().stuck
    assert "table 2 is full: a typical full row has 7," in reason
    assert "`cdc-consumer schema apply --map map.csv`" in reason
    assert [row[1] for row in target.overflow()] == [NEW]
    seen = {channel: ChannelSample(channel, {"String": 1}, 18.0, 18) for channel in channels}
    another = plan_schema((*lists, ChannelList(4, "more", (NEW,))), Sample(("S1",), channels=seen))
    apply_schema(target.conn, target.settings, another)
    assert target.govern(step_s=60).live_channels == [NEW]
    assert target.cells(table_no=4) == {(0, NEW): ("1", None)}


def test_a_table_dropped_by_hand_is_reported(open_target: Open) -> None:
    """The channel waits; the message names the command."""
    target = open_target(ships=("S1", "S2"))
    target.write(event(Op.CREATE, "1"))
    target.conn.execute("DROP TABLE wide_one.tbl_data_timeseries_s2_2")
    report = target.govern()
    assert report.stuck == ["tbl_data_timeseries_s2_2 is missing: run `cdc-consumer schema apply`"]
    assert report.live_channels == []


def test_a_role_without_rights_is_reported_not_raised(open_target: Open) -> None:
    """A consumer goes on writing while a person sorts out the rights."""
    target = open_target()
    target.write(event(Op.CREATE, "1"))
    row = target.conn.execute("SELECT 'weak_' || left(md5(current_database()), 8)").fetchone()
    assert row is not None
    role = sql.Identifier(row[0])
    rights = """CREATE ROLE {0}; GRANT USAGE ON SCHEMA control_one, wide_one TO {0};
                GRANT ALL ON ALL TABLES IN SCHEMA control_one, wide_one TO {0}"""
    target.conn.execute(sql.SQL(rights).format(role))

    def connect() -> Connection:
        conn = connect_target(target.settings, "governor")
        conn.execute(sql.SQL("SET ROLE {}").format(role))
        return conn

    try:
        (reason,) = govern(connect, target.settings).stuck
        assert "must be owner of table" in reason
    finally:
        target.conn.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def test_without_a_control_schema_the_governor_says_so(target_dsn: str) -> None:
    """And names the command that makes it."""
    settings = TargetSettings(dsn=target_dsn)
    with pytest.raises(ConfigurationError, match="schema apply"):
        govern(lambda: connect_target(settings, "governor"), settings)


# -- ships ------------------------------------------------------------------------------------------------------


def test_a_new_ship_gets_its_tables_and_its_cells(open_target: Open) -> None:
    """Known channels go to its tables at once, new ones with the next step at the latest."""
    target = open_target()
    target.write(
        event(Op.CREATE, "1", ship="S9", channel=KNOWN),
        event(Op.UPDATE, "2", ship="S9", channel=KNOWN, moment_s=15, lsn=3),
        event(Op.DELETE, None, ship="S9", channel="/v1/ab01//x", moment_s=15, lsn=4),
        event(Op.CREATE, "5", ship="S9"),
    )
    report = target.govern()
    assert (report.new_ships, report.live_ships, report.live_channels) == (["S9"], ["S9"], [NEW])
    assert target.cells("S9") == {
        (0, KNOWN): ("1", None),
        (15, KNOWN): ("2", [1, 3, "u"]),
        (0, NEW): ("5", None),
    }
    assert target.cells("S9", 1) == {(15, "/v1/ab01//x"): (None, [1, 4, "d"])}
    assert target.overflow() == []
    target.write(event(Op.CREATE, "6", ship="S9", moment_s=30))
    assert target.cells("S9")[30, NEW] == ("6", None)


def test_a_ship_that_can_not_have_tables_is_reported(open_target: Open) -> None:
    """It collides with a registered one, or is too long; its cells stay, and others are not held up."""
    target = open_target()
    ships = ("s1", "S" * 50, "S9")
    target.write(*(event(Op.CREATE, "1", ship=ship, channel=KNOWN) for ship in ships))
    report = target.govern()
    assert report.live_ships == ["S9"]
    assert ["'S1' and 's1'" in reason or "too long" in reason for reason in report.stuck] == [True, True]
    assert {row[0] for row in target.overflow()} == {"s1", "S" * 50}


def test_a_ship_may_come_while_a_channel_is_pending(open_target: Open) -> None:
    """Cells of both are drained, whoever becomes live first."""
    target = open_target()
    target.write(event(Op.CREATE, "1"))
    target.govern(step_s=-1)
    plan = plan_schema(LISTS, Sample(("S1", "S2")))
    apply_schema(target.conn, target.settings, plan)
    target.write(event(Op.CREATE, "2", ship="S2"), event(Op.CREATE, "3", ship="S3"))
    report = target.govern()
    assert (report.live_channels, report.live_ships) == ([NEW], ["S3"])
    assert [target.cells(ship) for ship in ("S1", "S2", "S3")] == [
        {(0, NEW): (value, None)} for value in ("1", "2", "3")
    ]
    assert target.overflow() == []


def test_the_newest_moment_is_no_limit(open_target: Open) -> None:
    """More cells than one chunk holds, over more moments than one table has rows: all of them arrive."""
    target = open_target()
    target.conn.execute(
        "INSERT INTO overflow_cell (ship_id, created_time, channel_id, value, value_format, reason)"
        " SELECT 'S9', %s::timestamp + i * interval '15 s', channel, i::text, 'Decimal', 'no_ship'"
        " FROM generate_series(1, 4000) i, unnest(%s::text[]) channel",
        [datetime(2024, 1, 1), [KNOWN, "/v1/me01//y", NEW]],
    )
    report = target.govern(step_s=60)
    assert (report.drained_cells, report.live_ships) == (12_000, ["S9"])
    assert len(target.cells("S9")) == 12_000
    assert target.overflow() == []
