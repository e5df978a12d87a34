"""`cdc-consumer schema apply`, run as a command on a real source and target."""

from __future__ import annotations

from pathlib import Path

import click
import psycopg
import pytest

from tests.schema_world import ENGINE, Run, insert, small_lists, wide_tables
from widetable.ddl import check_tables
from widetable.errors import ExitCode
from widetable.postgres import Connection
from widetable.registry import require_registry

pytestmark = pytest.mark.postgres


def test_apply_creates_the_tables_of_every_ship_and_then_nothing(
    run: Run, source: psycopg.Connection, target: Connection
) -> None:
    """The second run says that there is nothing to change."""
    for ship in ("IMO2", "IMO1"):
        insert(source, ship, ENGINE[0], 1.5)
    code, out, err = run("apply")
    assert (code, err) == (ExitCode.DONE, "")
    assert "control schema: 0001 first" in out
    assert "added 1,052 channels" in out
    assert "added 6 tables" in out
    assert wide_tables(target) == [
        f"tbl_data_timeseries_imo{ship}_{no}" for ship in (1, 2) for no in (1, 2, 3)
    ]
    assert check_tables(target) == []
    code, out, _ = run("apply")
    assert (code, out) == (ExitCode.DONE, "nothing to change: 1,052 channels, 2 ships are as planned\n")


def test_apply_keeps_what_is_settled(run: Run, source: psycopg.Connection, target: Connection) -> None:
    """Without options a later run repeats the first one's choices; against them it is refused."""
    insert(source, "S1", "/v1/me01//x", 1, "Integer")
    assert (
        run("apply", "--column-type", "typed", "--deletes", "ignore", "--new-channels", "manual")[0]
        == ExitCode.DONE
    )
    insert(source, "S2", "/v1/me01//x", 1, "Integer")
    assert run("apply", "--ship-id", "S2")[0] == ExitCode.DONE
    registry = require_registry(target)
    assert (registry.column_type, registry.deletes, registry.new_channels) == ("typed", "ignore", "manual")
    assert set(registry.ships) == {"S1", "S2"}
    code, _, err = run("apply", "--column-type", "text")
    assert code == ExitCode.CONFIGURATION
    assert "--column-type is settled as 'typed'" in err


def test_typed_columns_follow_the_samples(
    run: Run, source: psycopg.Connection, target: Connection, tmp_path: Path
) -> None:
    """One type per format; what was never seen is a decimal."""
    values = {"Decimal": 1.5, "Integer": 2, "String": "x", "Boolean": True}
    folder = small_lists(tmp_path, *(f"/v1/me01//{form}" for form in values))
    for form, value in values.items():
        insert(source, "S", f"/v1/me01//{form}", value, form)
    _, out, _ = run("apply", "--column-type", "typed", "--channels", folder)
    assert "note: 3 channels were never seen and are taken for decimals" in out
    types = {column.channel_id: column.column_type for column in require_registry(target).columns[2]}
    assert types == {
        "/v1/me01//x": "float8",
        "/v1/me01//Decimal": "float8",
        "/v1/me01//Integer": "int8",
        "/v1/me01//String": "text",
        "/v1/me01//Boolean": "bool",
    }


def test_apply_adds_a_listed_channel_to_tables_that_are_there(
    run: Run, source: psycopg.Connection, target: Connection, tmp_path: Path
) -> None:
    """With the cells that waited for it in overflow."""
    insert(source, "S", "/v1/me01//x", 1.5)
    run("apply", "--channels", small_lists(tmp_path), "--new-channels", "manual")
    target.execute(
        "INSERT INTO overflow_cell (ship_id, created_time, channel_id, value, reason)"
        " VALUES ('S', '2024-01-01', '/v1/me01//new', '5', 'no_channel'),"
        " ('S', '2024-01-01', '/other', '5', 'no_channel')"
    )
    code, out, _ = run("apply", "--channels", small_lists(tmp_path, "/v1/me01//new"))
    assert code == ExitCode.DONE
    assert "live: 1 channels, 0 ships; 1 cells moved from overflow" in out
    assert "waiting: channel /other" in out
    row = target.execute('SELECT "/v1/me01//new" FROM tenant.tbl_data_timeseries_s_2').fetchone()
    assert row == ("5",)


def test_apply_says_what_could_not_be_added(
    run: Run, source: psycopg.Connection, target: Connection, tmp_path: Path
) -> None:
    """Exit code 5: the rest was done."""
    insert(source, "S", "/v1/me01//x", 1.5)
    run("apply", "--channels", small_lists(tmp_path))
    target.execute(
        "INSERT INTO overflow_cell (ship_id, created_time, channel_id, value, reason)"
        " VALUES ('s', '2024-01-01', '/v1/me01//x', '5', 'no_ship')"
    )
    code, _, err = run("apply", "--channels", tmp_path)
    assert code == ExitCode.PARTIAL
    assert "'S' and 's' differ in case only" in err


# -- dropping ---------------------------------------------------------------------------------------------------


def test_dropping_off_a_terminal_needs_yes(run: Run, source: psycopg.Connection, target: Connection) -> None:
    """It says what it would drop; nothing is dropped by accident in a script."""
    insert(source, "S", ENGINE[0], 1.5)
    run("apply")
    code, out, err = run("apply", "--drop-tables")
    assert code == ExitCode.USAGE
    assert "drops tbl_data_timeseries_s_1: about" in out
    assert "--yes" in err
    assert len(wide_tables(target)) == 3


def test_dropping_makes_the_tables_again(run: Run, source: psycopg.Connection, target: Connection) -> None:
    """Empty, and now with another column type; tables that were not ours under these names go, too."""
    insert(source, "S", ENGINE[0], 1.5)
    run("apply")
    target.execute("INSERT INTO tenant.tbl_data_timeseries_s_2 (created_time) VALUES (now())")
    target.execute(
        "DROP TABLE tenant.tbl_data_timeseries_s_1; CREATE TABLE tenant.tbl_data_timeseries_s_1 (mine int)"
    )
    code, out, err = run("apply", "--drop-tables", "--yes", "--column-type", "typed")
    assert (code, err) == (ExitCode.DONE, "")
    assert out.count("drops tbl_data_timeseries_s_") == 3
    assert check_tables(target) == []
    assert target.execute("SELECT FROM tenant.tbl_data_timeseries_s_2").fetchall() == []
    registry = require_registry(target)
    assert registry.column_type == "typed"
    assert {column.column_type for column in registry.columns[2]} == {"float8"}


@pytest.mark.parametrize("answer", [True, False])
def test_dropping_on_a_terminal_asks(
    run: Run, source: psycopg.Connection, target: Connection, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    """A person who says no keeps the rows."""

    def confirm(_: str, *, abort: bool) -> None:
        if abort and not answer:
            raise click.Abort

    insert(source, "S", ENGINE[0], 1.5)
    run("apply")
    target.execute("INSERT INTO tenant.tbl_data_timeseries_s_2 (created_time) VALUES (now())")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", confirm)
    assert (run("apply", "--drop-tables")[0] == ExitCode.DONE) == answer
    assert len(target.execute("SELECT FROM tenant.tbl_data_timeseries_s_2").fetchall()) == (
        0 if answer else 1
    )
