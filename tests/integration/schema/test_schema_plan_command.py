"""`cdc-consumer schema plan`, run as a command on a real source: what it shows, and mistakes it names."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.schema_world import ENGINE, Run, insert, wide_tables
from widetable.errors import ExitCode
from widetable.postgres import Connection

pytestmark = pytest.mark.postgres


def test_plan_shows_tables_sizes_and_what_to_look_at(run: Run, source: psycopg.Connection) -> None:
    """Ships, channels seen, bytes against the page, unknown channels, conflicts; all of it in JSON, too."""
    insert(source, "IMO1", ENGINE[0], 1.5)
    insert(source, "IMO1", ENGINE[1], 7, "Integer")
    insert(source, "IMO1", ENGINE[1], 1.5, "Decimal", "15 s")
    insert(source, "IMO1", ENGINE[1], 2.5, "Decimal", "30 s")
    insert(source, "IMO2", "/hs4sd_v1/ct99//new", 2.5)
    code, out, err = run("plan", "--json", "--column-type", "typed")
    report = json.loads(out)
    assert (code, err) == (ExitCode.DONE, "")
    assert report["ships"] == ["IMO1", "IMO2"]
    assert [(table["channels"], table["channels_seen"]) for table in report["tables"]] == [
        (347, 0),
        (655, 2),
        (50, 0),
    ]
    assert report["tables"][1]["worst_bytes"] <= report["page_bytes"] == 8160
    assert report["unknown_channels"] == [
        {"channel_id": "/hs4sd_v1/ct99//new", "table_no": 1, "formats": {"Decimal": 1}}
    ]
    assert report["conflicts"] == [{"channel_id": ENGINE[1], "formats": {"Decimal": 2, "Integer": 1}}]
    assert len(report["assumed_types"]) == 1050
    code, text, _ = run("plan")
    assert code == ExitCode.DONE
    for part in (
        "IMO1, IMO2",
        "2 engine_generator *",
        "/hs4sd_v1/ct99//new -> table 1",
        "Decimal 2, Integer 1",
    ):
        assert part in text


def test_plan_writes_nothing(run: Run, source: psycopg.Connection, target: Connection) -> None:
    """Neither to the source nor to the target."""
    insert(source, "IMO1", ENGINE[0], 1.5)
    before = source.execute("SELECT * FROM tenant.tbl_data_timeseries").fetchall()
    assert run("plan")[0] == ExitCode.DONE
    assert source.execute("SELECT * FROM tenant.tbl_data_timeseries").fetchall() == before
    assert target.execute("SELECT FROM pg_namespace WHERE nspname IN ('cdc', 'tenant')").fetchall() == []


def test_plan_of_an_empty_source_shows_the_lists(run: Run) -> None:
    """And says that tables come with the first ship."""
    code, out, _ = run("plan")
    assert code == ExitCode.DONE
    assert "the source has no samples" in out
    assert "tables appear with the first ship" in out


def test_the_sample_is_the_last_minutes_before_the_newest_sane_moment(
    run: Run, source: psycopg.Connection
) -> None:
    """Not of the clock, and not fooled by a ship whose clock is years ahead, nor by infinity."""
    insert(source, "S", "/a", 1.5, age="30 days")
    insert(source, "S", "/b", 1.5, age="30 days 20 min")
    insert(source, "S", "/ahead", 1.5, age="-3 years")
    source.execute(
        "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time)"
        " VALUES ('S', '/inf', 'infinity')"
    )
    found = [
        [
            entry["channel_id"]
            for entry in json.loads(run("plan", "--json", "--sample-minutes", minutes)[1])["unknown_channels"]
        ]
        for minutes in ("10", "30")
    ]
    assert found == [["/a"], ["/a", "/b"]]


def test_a_silent_channel_is_known_by_its_last_sample(run: Run, source: psycopg.Connection) -> None:
    """An alarm that was raised a year ago is still a Boolean."""
    insert(source, "S", ENGINE[0], 1.5)
    insert(source, "S", ENGINE[1], True, "Boolean", "1 year")
    report = json.loads(run("plan", "--json", "--column-type", "typed")[1])
    assert ENGINE[1] not in report["assumed_types"]
    assert len(report["assumed_types"]) == 1050


@pytest.mark.parametrize("form", [None, "Unheard"])
def test_a_sample_without_a_usable_format_counts_by_its_value(
    run: Run, source: psycopg.Connection, form: str | None
) -> None:
    """The only value column that is set tells the type."""
    insert(source, "S", "/a", 1.5, form)
    report = json.loads(run("plan", "--json")[1])
    assert report["unknown_channels"][0]["formats"] == {"Decimal": 1}


def test_plan_looks_at_chosen_ships_only(run: Run, source: psycopg.Connection) -> None:
    """With --ship-id, repeated."""
    for ship in ("S1", "S2", "S3"):
        insert(source, ship, f"/of/{ship}", 1.5)
    report = json.loads(run("plan", "--json", "--ship-id", "S1", "--ship-id", "S3")[1])
    assert report["ships"] == ["S1", "S3"]
    assert [entry["channel_id"] for entry in report["unknown_channels"]] == ["/of/S1", "/of/S3"]


def test_ships_that_collide_are_shown_and_refused(run: Run, source: psycopg.Connection) -> None:
    """The whole report, then the reason, and the exit code of a configuration error."""
    for ship in ("IMO1", "imo1", "S" * 60):
        insert(source, ship, ENGINE[0], 1.5)
    code, out, err = run("plan", "--json")
    assert code == ExitCode.CONFIGURATION
    assert len(json.loads(out)["problems"]) == 2
    assert "differ in case only" in err
    assert run("apply")[0] == ExitCode.CONFIGURATION


def test_the_single_layout_is_refused_with_its_figures(run: Run, target: Connection) -> None:
    """By plan and by apply."""
    code, out, err = run("plan", "--layout", "single")
    assert code == ExitCode.CONFIGURATION
    assert "9,640" in out
    assert "8,160" in err
    code, _, err = run("apply", "--layout", "single")
    assert code == ExitCode.CONFIGURATION
    assert "9,640" in err
    assert wide_tables(target) == []


# -- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_an_unknown_ship_is_named_with_those_that_are_there(
    run: Run, source: psycopg.Connection, command: str
) -> None:
    """A typing error does not become a table."""
    insert(source, "IMO1", ENGINE[0], 1.5)
    code, _, err = run(command, "--ship-id", "IM01")
    assert code == ExitCode.CONFIGURATION
    assert "no samples of ship IM01; it has IMO1" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            "DROP TABLE tenant.tbl_data_timeseries", "no table tenant.tbl_data_timeseries", id="no table"
        ),
        pytest.param("DROP SCHEMA tenant CASCADE", "no table tenant.tbl_data_timeseries", id="no schema"),
        pytest.param(
            "ALTER TABLE tenant.tbl_data_timeseries RENAME ship_id TO vessel",
            'is not a narrow table: column "ship_id" does not exist',
            id="another table",
        ),
    ],
)
def test_a_source_without_the_narrow_table_is_said_in_one_line(
    run: Run, source: psycopg.Connection, change: str, words: str
) -> None:
    """With the setting to look at."""
    source.execute(change.encode())
    code, _, err = run("plan")
    assert code == ExitCode.CONFIGURATION
    assert words in err
    assert "CDC_SOURCE__TABLE" in err
    assert "Traceback" not in err


def test_a_role_that_may_not_read_the_source_is_told_so(
    run: Run, source_dsn: str, source: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rights that it lacks."""
    role = sql.Identifier(f"blind_{source.info.dbname}")
    source.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'blind'").format(role))
    dsn = conninfo.make_conninfo(source_dsn, user=f"blind_{source.info.dbname}", password="blind")
    monkeypatch.setenv("CDC_SOURCE__DSN", dsn)
    try:
        code, _, err = run("plan")
    finally:
        source.execute(sql.SQL("DROP ROLE {}").format(role))
    assert code == ExitCode.CONFIGURATION
    assert "may not read tenant.tbl_data_timeseries: GRANT" in err


def test_a_missing_folder_of_lists_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    """With file and option."""
    code, _, err = run("plan", "--channels", tmp_path / "none")
    assert code == ExitCode.CONFIGURATION
    assert "none/auxiliary_systems.txt: can't read the channel list (No such file or directory)" in err


def test_an_unreachable_target_is_said_in_one_line(
    run: Run, source: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 4: starting again may help."""
    insert(source, "S", ENGINE[0], 1.5)
    monkeypatch.setenv("CDC_TARGET__DSN", "postgresql://postgres:secret@127.0.0.1:1/none")
    code, _, err = run("apply")
    assert code == ExitCode.UNREACHABLE
    assert "target database does not answer" in err
    assert "secret" not in err
