"""`schema plan --write`, a person's edits, `schema apply --map`: run as commands on a real source and target."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.schema_world import ENGINE, Run, insert, small_lists, wide_tables
from widetable.errors import ExitCode
from widetable.postgres import Connection
from widetable.registry import require_registry
from widetable.state import cell_facts

pytestmark = pytest.mark.postgres


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a map, by channel."""
    with path.open(newline="") as file:
        return {row["channel_id"]: row for row in csv.DictReader(file)}


def report_of(run: Run, *arguments: str | Path) -> dict[str, Any]:
    """What `schema plan --json` says."""
    code, out, err = run("plan", "--json", *arguments)
    assert (code, err) == (ExitCode.DONE, "")
    report: dict[str, Any] = json.loads(out)
    return report


def test_a_written_map_makes_the_tables_that_were_planned(
    run: Run, source: psycopg.Connection, target: Connection, tmp_path: Path
) -> None:
    """With what a person changes in it, and the channels that no list names; another apply keeps all that."""
    insert(source, "S", "/v1/me01//x", 7, "Integer")
    insert(source, "S", "/v1/me01//x", 7.5, age="15 s")
    insert(source, "S", "/v1/ab99//new", "on", "String")
    path = tmp_path / "map.csv"
    code, _, err = run("plan", "--channels", small_lists(tmp_path), "--column-type", "typed", "--write", path)
    assert (code, err) == (ExitCode.DONE, f"wrote {path}\n")
    rows = rows_of(path)
    assert rows["/v1/me01//x"]["note"] == "two formats"
    assert rows["/v1/ab99//new"] == {
        "channel_id": "/v1/ab99//new",
        "table_no": "1",
        "system": "auxiliary_systems",
        "column_name": "/v1/ab99//new",
        "column_type": "text",
        "formats": "String 1",
        "typical_bytes": "2.0",
        "note": "in no list",
    }
    text = path.read_text().replace("/v1/vdr//x,3,navigation_ship", "/v1/vdr//x,7,bridge")
    path.write_text(text.replace("/v1/ab99//new,text", "renamed,text"))
    code, out, err = run("apply", "--map", path)
    assert (code, err) == (ExitCode.DONE, "")
    assert wide_tables(target) == [f"tbl_data_timeseries_s_{number}" for number in (1, 2, 7)]
    registry = require_registry(target)
    assert [(column.name, column.column_type) for column in registry.columns[1]] == [
        ("/v1/ab01//x", "float8"),
        ("renamed", "text"),
    ]
    assert registry.column_type == "typed"
    insert(source, "S2", "/v1/me01//x", 7, "Integer")
    assert "added 3 tables" in run("apply")[1]
    code, out, _ = run("apply", "--map", path)
    assert (code, out) == (ExitCode.DONE, "nothing to change: 4 channels, 2 ships are as planned\n")


def test_a_map_with_mistakes_changes_nothing(run: Run, target: Connection, tmp_path: Path) -> None:
    """Each with its line, for plan and apply; not even the control schema is made."""
    path = tmp_path / "map.csv"
    path.write_text("channel_id,table_no,column_type\n/a,1,text\n/a,1,text\n/b,9999,text\n/c,1,money\n")
    for command in ("plan", "apply"):
        code, out, err = run(command, "--map", path)
        assert (code, out) == (ExitCode.CONFIGURATION, "")
        for line in (3, 4, 5):
            assert f"{path}:{line}: " in err
    assert target.execute("SELECT FROM pg_namespace WHERE nspname = 'cdc'").fetchall() == []
    code, _, err = run("plan", "--map", path, "--channels", tmp_path)
    assert code == ExitCode.CONFIGURATION
    assert "give one of them" in err


def test_typed_columns_need_a_typed_layout(run: Run, tmp_path: Path) -> None:
    """A map of typed columns asks for one; against --column-type text it is refused."""
    path = tmp_path / "map.csv"
    path.write_text("channel_id,table_no,column_type\n/a,5,float8\n")
    assert report_of(run, "--map", path)["column_type"] == "typed"
    code, _, err = run("plan", "--map", path, "--column-type", "text")
    assert code == ExitCode.CONFIGURATION
    assert "1 channels have a typed column, such as '/a'" in err


def test_under_manual_newcomers_wait_for_a_person(
    run: Run, source: psycopg.Connection, target: Connection, tmp_path: Path
) -> None:
    """They stay in overflow; plan lists them and writes them into a map, and apply takes them in."""
    insert(source, "S", "/v1/me01//x", 1.5)
    run("apply", "--channels", small_lists(tmp_path), "--new-channels", "manual", "--new-ships", "manual")
    target.execute(
        "INSERT INTO overflow_cell (ship_id, created_time, channel_id, value, value_format, reason)"
        " VALUES ('S', '2024-01-01', '/v1/me02//new', '5', 'Decimal', 'no_channel'),"
        "        ('S8', '2024-01-01', '/v1/me01//x', '6', 'Decimal', 'no_ship')"
    )
    code, out, _ = run("apply")
    assert code == ExitCode.DONE
    assert "waiting: channel /v1/me02//new" in out
    insert(source, "S8", "/v1/me01//x", 6)
    report = report_of(run)
    assert (report["waiting_ships"], report["waiting_channels"]) == (["S8"], ["/v1/me02//new"])
    assert "Channels that wait in overflow" in run("plan")[1]
    cells = cell_facts(target, "pipeline")
    assert (cells["waiting_ships"], cells["waiting_channels"]) == (["S8"], ["/v1/me02//new"])
    path = tmp_path / "map.csv"
    run("plan", "--write", path)
    assert rows_of(path)["/v1/me02//new"]["note"] == "in no list; never seen"
    code, out, _ = run("apply", "--map", path)
    assert code == ExitCode.DONE
    assert "live: 1 channels, 1 ships; 2 cells moved from overflow" in out
    assert target.execute("SELECT count(*) FROM overflow_cell").fetchone() == (0,)
    assert target.execute('SELECT "/v1/me02//new" FROM tenant.tbl_data_timeseries_s_2').fetchall() == [("5",)]
    assert (report_of(run)["waiting_ships"], report_of(run)["waiting_channels"]) == ([], [])


# -- what is looked at ------------------------------------------------------------------------------------------


def test_a_period_is_looked_at_whole(run: Run, source: psycopg.Connection) -> None:
    """From the first moment on, up to and without the second; either may be left out."""
    source.execute(
        "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, double_v)"
        " SELECT 'S', '/c' || day, timestamp '2024-01-01' + day * interval '1 day', 'Decimal', 1"
        " FROM generate_series(0, 4) day"
    )
    found = {
        bounds: [entry["channel_id"] for entry in report_of(run, *bounds)["unknown_channels"]]
        for bounds in (
            ("--from", "2024-01-02", "--until", "2024-01-04"),
            ("--from", "2024-01-04T00:00:00"),
            ("--until", "2024-01-02 00:00:00.000001"),
        )
    }
    assert list(found.values()) == [["/c1", "/c2"], ["/c3", "/c4"], ["/c0", "/c1"]]


def test_a_bad_period_is_refused(run: Run, source: psycopg.Connection) -> None:
    """In one line, whatever is wrong with it."""
    insert(source, "S", ENGINE[0], 1.5)
    for arguments, code, words in (
        (
            ["--from", "2020-01-01", "--until", "2020-01-02"],
            3,
            "no samples from 2020-01-01 00:00:00 until 20",
        ),
        (["--from", "2024-01-02", "--until", "2024-01-01"], 2, "--from must be before --until"),
        (["--from", "2024-01-02", "--sample-minutes", "5"], 2, "exclude each other"),
        (["--from", "yesterday"], 2, "'yesterday' is not a timestamp like 2025-01-31"),
        (["--until", "2024-01-02T00:00:00Z"], 2, "has no time zone"),
    ):
        found, _, err = run("plan", *arguments)
        assert found == code
        assert words in err


def test_rows_that_are_seldom_long_split_a_table(
    run: Run, source: psycopg.Connection, tmp_path: Path
) -> None:
    """Their average would fit: of 100 rows with 400 channels, one has 20 bytes each, the others 2."""
    source.execute(
        "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, str_v)"
        " SELECT 'S', '/c' || channel, timestamp '2024-01-01' + moment * interval '15 s', 'String',"
        " repeat('x', CASE moment WHEN 50 THEN 20 ELSE 2 END)"
        " FROM generate_series(1, 400) channel, generate_series(1, 100) moment"
    )
    path = tmp_path / "map.csv"
    path.write_text("channel_id,table_no\n" + "".join(f"/c{number},2\n" for number in range(1, 401)))
    tables = report_of(run, "--map", path)["tables"]
    assert [(table["table"], table["part"], table["table_no"]) for table in tables] == [
        ("2p1", 1, 2),
        ("2p2", 2, 2),
    ]
    assert tables[0]["tables"] == ["tbl_data_timeseries_s_2p1"]
    assert tables[0]["view"] == ["tbl_data_timeseries_s_2"]
    assert tables[0]["typical_bytes"] < 750
    assert 4_200 < tables[0]["high_bytes"] < 4_400
    before = ("--until", "2024-01-01 00:12:00")
    assert [table["table"] for table in report_of(run, "--map", path, *before)["tables"]] == ["2"]


def test_an_unlisted_channel_that_can_have_no_column_is_shown(
    run: Run, source: psycopg.Connection, tmp_path: Path
) -> None:
    """Its name is that of a listed channel's column."""
    path = tmp_path / "map.csv"
    path.write_text("channel_id,table_no,column_name\n/a,2,/b\n")
    insert(source, "S", "/b", 1.5)
    (warning,) = report_of(run, "--map", path)["warnings"]
    assert "channel /b (in no list) would share column '/b' of table 2 with channel /a" in warning


def test_a_plan_needs_no_target(
    run: Run, source: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer is noted."""
    insert(source, "S", ENGINE[0], 1.5)
    monkeypatch.setenv("CDC_TARGET__DSN", "postgresql://postgres:secret@127.0.0.1:1/none")
    (note,) = report_of(run)["notes"]
    assert "planned as for an empty target: The target database does not answer" in note
    assert "secret" not in note


def test_a_plan_shows_what_is_registered(
    run: Run, source: psycopg.Connection, target: Connection, tmp_path: Path
) -> None:
    """With another version of the control schema it can't, and says so."""
    insert(source, "S", "/v1/me01//x", 1.5)
    run("apply", "--channels", small_lists(tmp_path))
    assert [table["channels"] for table in report_of(run)["tables"]] == [1, 1, 1]
    target.execute("INSERT INTO migration (number, name) VALUES (9999, 'future')")
    code, _, err = run("plan")
    assert code == ExitCode.CONFIGURATION
    assert "newer than this program" in err
