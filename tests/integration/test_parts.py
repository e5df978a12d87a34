"""A table that can't hold its rows is split: writers, verify, governor and drop know its parts, readers don't."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from backfill.cli import commands as backfill
from tests.governed_target import NEW, Open, Target, event, governed_targets
from tests.schema_world import insert, schema_runner
from widetable import command_line
from widetable.channel_map import ChannelList
from widetable.ddl import apply_schema, check_tables
from widetable.drop import drop_tables, droppable_tables
from widetable.errors import ConfigurationError, ExitCode
from widetable.layout import load_layout
from widetable.narrow import Op
from widetable.postgres import Connection, connect_target
from widetable.registry import require_registry
from widetable.sampling import ChannelSample, Sample
from widetable.schema_plan import plan_schema
from widetable.settings import TargetSettings

pytestmark = pytest.mark.postgres

MANY = tuple(f"/v1/me01//{number:03}" for number in range(830))
FIRST, LAST = MANY[0], MANY[-1]
LISTS = (ChannelList(1, "auxiliary_systems", ("/v1/ab01//x",)), ChannelList(2, "engine_generator", MANY))
VIEW = "tbl_data_timeseries_s1_2"


@pytest.fixture
def open_target(target_dsn: str) -> Iterator[Open]:
    """Makes targets with ship S1, whose engine table is in two parts."""
    with governed_targets(target_dsn) as make:
        yield lambda **choices: make(lists=LISTS, **choices)


def relations(conn: Connection, kind: str = "r") -> list[str]:
    """Names of the wide tables, or of the views (`v`)."""
    query = "SELECT relname FROM pg_class WHERE relname LIKE 'tbl_data%%' AND relkind = %s ORDER BY 1"
    return [name for (name,) in conn.execute(query, [kind])]


def shown(target: Target, *channels: str) -> list[tuple[object, ...]]:
    """(second, values) of every row that readers see."""
    query = sql.SQL("SELECT extract(epoch FROM created_time)::int, {} FROM {} ORDER BY 1").format(
        sql.SQL(", ").join(map(sql.Identifier, channels)), sql.Identifier("wide_one", VIEW)
    )
    return target.conn.execute(query).fetchall()


def test_readers_see_one_table(open_target: Open) -> None:
    """Rows of one part only, and rows of both; updates and deletes; the key's condition reaches every part."""
    target = open_target()
    assert relations(target.conn) == [f"tbl_data_timeseries_s1_{part}" for part in ("1", "2p1", "2p2")]
    assert relations(target.conn, "v") == [VIEW]
    target.write(
        event(Op.CREATE, "1", channel=FIRST),
        event(Op.CREATE, "2", channel=LAST, moment_s=15),
        event(Op.CREATE, "3", channel=FIRST, moment_s=30),
        event(Op.CREATE, "4", channel=LAST, moment_s=30),
    )
    target.write(event(Op.UPDATE, "5", channel=LAST, moment_s=30, lsn=1))
    target.write(event(Op.DELETE, None, channel=FIRST, moment_s=30, lsn=1))
    assert shown(target, FIRST, LAST) == [(0, "1", None), (15, None, "2"), (30, None, "5")]
    target.conn.execute("SET enable_seqscan = off")
    hour = "created_time >= '1970-01-01' AND created_time < '1970-01-01 01:00'"
    query = f"EXPLAIN SELECT * FROM wide_one.{VIEW} WHERE {hour}"
    plan = "\n".join(line for (line,) in target.conn.execute(query.encode()))
    assert plan.count("Index Cond: ((created_time >= ") >= 2
    assert "Seq Scan" not in plan
    assert check_tables(target.conn) == []


def test_a_new_channel_joins_a_part_and_the_view(open_target: Open) -> None:
    """For every ship, with its cells; what readers were granted stays, and so does a view above."""
    target = open_target(ships=("S1", "S2"))
    target.conn.execute(f"CREATE VIEW wide_one.mine AS SELECT * FROM wide_one.{VIEW}".encode())
    target.write(event(Op.CREATE, "1.5"), event(Op.CREATE, "7", channel=LAST))
    report = target.govern(step_s=60)
    assert (report.live_channels, report.stuck) == ([NEW], [])
    assert report.altered_tables == [
        *(f"tbl_data_timeseries_s{ship}_2p1" for ship in (1, 2)),
        *(f"tbl_data_timeseries_s{ship}_2" for ship in (1, 2)),
    ]
    target.write(event(Op.CREATE, "2.5", moment_s=15))
    assert shown(target, LAST, NEW) == [(0, "7", "1.5"), (15, None, "2.5")]
    assert target.overflow() == []
    assert check_tables(target.conn) == []


def test_a_new_channel_gets_a_part_where_none_has_room(open_target: Open) -> None:
    """Rows turned out larger than planned: nothing waits for a person, for any ship."""
    target = open_target(ships=("S1", "S2"))
    target.write(*(event(Op.CREATE, "x" * 18, channel=channel, form="String") for channel in MANY))
    target.write(event(Op.CREATE, "1.5", moment_s=15))
    report = target.govern(step_s=60)
    assert (report.live_channels, report.stuck) == ([NEW], [])
    assert [name for name in relations(target.conn) if name.endswith("2p3")] == [
        f"tbl_data_timeseries_s{ship}_2p3" for ship in (1, 2)
    ]
    target.write(event(Op.CREATE, "2.5", channel="/v1/me02//newer"))
    assert target.govern(step_s=60).live_channels == ["/v1/me02//newer"]
    assert shown(target, FIRST, NEW, "/v1/me02//newer") == [
        (0, "x" * 18, None, "2.5"),
        (15, None, "1.5", None),
    ]
    assert target.overflow() == []
    assert check_tables(target.conn) == []
    assert [system.suffix for system in require_registry(target.conn).parts(2)] == ["2p1", "2p2", "2p3"]


def test_a_view_that_readers_hold_delays_the_channel_only(open_target: Open) -> None:
    """It is reported, and the next step goes on."""
    target = open_target()
    target.write(event(Op.CREATE, "1.5"))
    with connect_target(target.settings, "reader") as reader, reader.transaction():
        reader.execute(f"LOCK TABLE ONLY wide_one.{VIEW} IN ACCESS SHARE MODE".encode())
        report = target.govern(step_s=60)
        assert report.live_channels == []
        assert any("wait for a lock" in text for text in report.stuck)
    assert target.govern(step_s=60).live_channels == [NEW]
    assert shown(target, NEW) == [(0, "1.5")]


def test_a_new_ship_gets_parts_and_view(open_target: Open) -> None:
    """With the rights of readers: on what they read, not on the parts."""
    target = open_target()
    role = f"reader_{target.conn.info.dbname}"
    target.conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    target.settings = target.settings.model_copy(update={"reader_role": role})
    try:
        target.write(event(Op.CREATE, "1", ship="S9", channel=FIRST))
        assert target.govern(step_s=60).live_ships == ["S9"]
        granted = target.conn.execute(
            "SELECT relname, has_table_privilege(%s, oid, 'SELECT') FROM pg_class"
            " WHERE relname LIKE 'tbl_data%%s9%%' AND relkind IN ('r', 'v') ORDER BY 1",
            [role],
        ).fetchall()
        assert granted == [
            (f"tbl_data_timeseries_s9_{name}", allowed)
            for name, allowed in (("1", True), ("2", True), ("2p1", False), ("2p2", False))
        ]
        assert apply_schema(target.conn, target.settings, plan_schema(LISTS, Sample(("S1",)))).grants == [
            "tbl_data_timeseries_s1_1",
            "tbl_data_timeseries_s1_2",
        ]
    finally:
        target.conn.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def test_a_part_is_added_where_none_has_room(open_target: Open) -> None:
    """`schema apply` with longer lists; the layout stays one that writers accept."""
    target = open_target()
    long = tuple(f"/more/{number}" for number in range(320))
    more = (LISTS[0], ChannelList(2, "engine_generator", (*MANY, *long)))
    seen = {channel: ChannelSample(channel, {"String": 1}, 30.0, 30) for channel in long}
    plan = plan_schema(more, Sample(("S1",), channels=seen))
    changes = apply_schema(target.conn, target.settings, plan)
    assert (changes.settings[0], changes.tables) == (
        "table 2p3 engine_generator",
        ["tbl_data_timeseries_s1_2p3"],
    )
    assert changes.notes == []
    while target.govern().more:
        pass
    assert len(load_layout(target.conn).ordinal) == 831 + 320
    target.write(event(Op.CREATE, "1", channel=long[-1]), event(Op.CREATE, "2", channel=FIRST))
    assert shown(target, FIRST, long[-1]) == [(0, "2", "1")]
    assert not apply_schema(target.conn, target.settings, plan)


def test_a_view_that_was_dropped_is_noticed_and_made_again(open_target: Open) -> None:
    """By `check`, and by `schema apply`."""
    target = open_target()
    target.conn.execute(f"DROP VIEW wide_one.{VIEW}".encode())
    assert check_tables(target.conn) == [f"{VIEW}: the view on its parts is missing"]
    apply_schema(target.conn, target.settings, plan_schema(LISTS, Sample(("S1",))))
    assert check_tables(target.conn) == []


def test_a_foreign_table_under_the_view_s_name_is_never_taken_over(target_dsn: str) -> None:
    """It is somebody's, as a table under a table's name is."""
    settings = TargetSettings(dsn=target_dsn)
    with connect_target(settings, "test") as conn:
        conn.execute(f"CREATE SCHEMA tenant; CREATE TABLE tenant.{VIEW} (mine int)".encode())
        with pytest.raises(ConfigurationError, match=f"not ours, such as tenant.{VIEW}"):
            apply_schema(conn, settings, plan_schema(LISTS, Sample(("S1",))))


def test_dropping_takes_view_and_parts(open_target: Open) -> None:
    """The view first; afterwards the same layout can be applied again."""
    target = open_target()
    plan = plan_schema(LISTS, Sample(("S1",)))
    tables = droppable_tables(target.conn, target.settings, plan)
    assert [(table.name, table.is_view) for table in tables] == [
        (VIEW, True),
        *((f"tbl_data_timeseries_s1_{part}", False) for part in ("1", "2p1", "2p2")),
    ]
    drop_tables(target.conn, target.settings, tables)
    assert relations(target.conn) == relations(target.conn, "v") == []
    apply_schema(target.conn, target.settings, plan)
    assert require_registry(target.conn).parts(2)[1].suffix == "2p2"


def test_history_of_a_table_in_parts_is_copied_and_verified(
    source_dsn: str,
    target_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a user does it: plan, apply, backfill, verify; every cell is in the view."""
    schema = schema_runner(source_dsn, target_dsn, monkeypatch, capsys)
    path = tmp_path / "map.csv"
    path.write_text("channel_id,table_no,system\n" + "".join(f"{channel},2,engine\n" for channel in MANY))
    with psycopg.connect(source_dsn, autocommit=True) as source:
        for channel in MANY[::10]:
            insert(source, "S1", channel, 1234.56789)
        insert(source, "S1", LAST, 2.5, age="1 hour")
        code, out, err = schema("plan", "--map", path)
        assert (code, err) == (ExitCode.DONE, "")
        assert "2p1 engine *" in out
        assert schema("apply", "--map", path)[0] == ExitCode.DONE
        monkeypatch.setenv("CDC_BACKFILL__WORKERS", "1")
        assert command_line.exit_code(backfill, arguments=["run", "--no-handoff"]) == ExitCode.DONE
        assert command_line.exit_code(backfill, arguments=["verify", "--no-settle"]) == ExitCode.DONE
    with connect_target(TargetSettings(dsn=target_dsn), "test") as conn:
        query = sql.SQL("SELECT {} FROM tenant.{} ORDER BY created_time").format(
            sql.SQL(", ").join(map(sql.Identifier, (FIRST, LAST))), sql.Identifier(VIEW)
        )
        rows = conn.execute(query).fetchall()
        assert rows[0] == (None, "2.5")
        assert ("1234.56789", None) in rows
