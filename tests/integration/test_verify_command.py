"""`backfill verify` as a person and a supervisor meet it: output, files, exit codes, what it publishes."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from backfill import verify_command
from backfill.verify_command import verify
from tests.verify_sides import LATER, LOAD, NOON, SHIP, SISTER, SPEED, Sides
from widetable import command_line
from widetable.errors import ExitCode
from widetable.settled import Settled, write_settled
from widetable.verify import record_verified

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.verify_fixture"]

PIPELINE = "narrow_to_wide"
FAR_LSN = 2**62


@pytest.fixture(autouse=True)
def environment(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings that name both sides."""
    monkeypatch.setenv("CDC_SOURCE__DSN", sides.source_settings.dsn.get_secret_value())
    monkeypatch.setenv("CDC_TARGET__DSN", sides.target_settings.dsn.get_secret_value())


def run(*arguments: str) -> int:
    """Run the command as its program does; returns the exit code."""
    return command_line.exit_code(verify, None, arguments)


def verified(sides: Sides) -> dict[str, str]:
    """What is published: moments by ship."""
    rows = sides.target.execute("SELECT ship_id, verified_through::text FROM verified").fetchall()
    return dict(rows)


def test_agreement_exits_0_and_is_published(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    """Per ship, up to just past the newest moment; a ship that has no cell publishes nothing."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    sides.both(LOAD, "1", LATER, double_v=1.0)
    assert run("--no-settle") == ExitCode.DONE
    assert "cells_compared" in capsys.readouterr().out
    assert verified(sides) == {SHIP: "2026-01-01 12:00:15.000001"}


def test_a_difference_exits_5_and_is_shown_to_the_cell(
    sides: Sides, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As text, as JSON on stdout and in the file; the list is bounded, the count is not."""
    sides.both(LOAD, "1.5", double_v=1.0)
    sides.sample(SPEED, double_v=1.0)
    file = tmp_path / "report.json"
    assert run("--no-settle", "--max-differences", "1", "--report", str(file)) == ExitCode.PARTIAL
    out, err = capsys.readouterr()
    assert f"different {SHIP}  2026-01-01T12:00:00.000000  {LOAD}: source '1', target '1.5'" in out
    assert "2 cells differ" in err
    assert run("--no-settle", "--max-differences", "1", "--json") == ExitCode.PARTIAL
    printed, written = json.loads(capsys.readouterr().out), json.loads(file.read_text())
    assert counts(printed) == counts(written) == {"missing": 1, "different": 1, "difference_count": 2}
    assert printed["differences"] == [
        {
            "kind": "different",
            "ship_id": SHIP,
            "created_time": "2026-01-01T12:00:00.000000",
            "channel_id": LOAD,
            "source": "1",
            "target": "1.5",
        }
    ]


def counts(report: dict[str, Any]) -> dict[str, int]:
    """The counts that the test is about."""
    return {name: report[name] for name in ("missing", "different", "difference_count")}


def test_a_difference_takes_back_what_was_published(sides: Sides) -> None:
    """A ship is verified up to its first wrong cell, until the cell is right again."""
    for at in (NOON, LATER):
        for ship in (SHIP, SISTER):
            sides.both(LOAD, "1", at, ship, double_v=1.0)
    assert run("--no-settle") == ExitCode.DONE
    sides.hold(LOAD, "2", LATER)
    assert run("--no-settle") == ExitCode.PARTIAL
    assert verified(sides) == {SHIP: LATER, SISTER: "2026-01-01 12:00:15.000001"}
    sides.hold(LOAD, "1", LATER)
    assert run("--no-settle", "--ship-id", SHIP) == ExitCode.DONE
    assert verified(sides)[SHIP] == "2026-01-01 12:00:15.000001"


def test_a_check_with_a_gap_before_it_publishes_nothing(sides: Sides) -> None:
    """`--from` proves nothing about what lies before it, unless that was proven already."""
    for at in (NOON, LATER):
        sides.both(LOAD, "1", at, double_v=1.0)
    assert run("--no-settle", "--from", "2026-01-01T12:00:10") == ExitCode.DONE
    assert verified(sides) == {}
    assert run("--no-settle", "--until", "2026-01-01T12:00:10") == ExitCode.DONE
    assert verified(sides) == {SHIP: "2026-01-01 12:00:00.000001"}
    assert run("--no-settle", "--from", "2026-01-01T12:00:10") == ExitCode.DONE
    assert verified(sides) == {SHIP: "2026-01-01 12:00:00.000001"}
    assert run("--no-settle", "--from", "2026-01-01T12:00:00") == ExitCode.DONE
    assert verified(sides) == {SHIP: "2026-01-01 12:00:15.000001"}


def test_a_check_that_stopped_early_publishes_nothing(sides: Sides) -> None:
    """What it did not look at is not proven, and what was proven before may still hold."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    assert run("--no-settle") == ExitCode.DONE
    before = verified(sides)
    for day in (2, 3):
        sides.both(SPEED, "1", f"2026-01-{day:02} 00:00:00", double_v=2.0)
    report = sides.verify(suspects=1, fail_fast=True)
    assert (report.different, report.complete) == (1, False)
    record_verified(sides.target, PIPELINE, report)
    assert verified(sides) == before


def test_a_ship_that_only_the_target_has_publishes_nothing(sides: Sides) -> None:
    """There is no newest source moment up to which it could be equal."""
    sides.target.execute("UPDATE layout SET deletes = 'ignore'")
    sides.sample(SPEED, NOON, SHIP, double_v=None)
    sides.hold(LOAD, "1", LATER, SISTER, kind="d")
    assert run("--no-settle", "--ship-id", SISTER) == ExitCode.DONE
    assert verified(sides) == {}


def test_a_long_check_shows_that_it_moves(
    sides: Sides, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr: stdout belongs to the report."""
    sides.both(LOAD, "1", double_v=1.0)
    monkeypatch.setattr(verify_command, "PROGRESS_S", 0.0)
    assert run("--no-settle", "--json") == ExitCode.DONE
    out, err = capsys.readouterr()
    assert json.loads(out)["cells_compared"] == 1
    assert "1 of 1 windows, 1 cells" in err


def test_a_cell_that_kept_changing_is_said_to_be_unproven(
    sides: Sides, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 5 too: supervisors must not take it for agreement."""
    sides.sample(LOAD, double_v=0.0)
    values = count(1)
    monkeypatch.setattr(
        verify_command, "wait_settled", lambda *_args: sides.update(LOAD, double_v=float(next(values)))
    )
    assert run() == ExitCode.PARTIAL
    assert "1 cells kept changing" in capsys.readouterr().err


def test_a_role_without_rights_is_told_what_it_lacks(
    sides: Sides, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad configuration, not a bug."""
    dsn = sides.source_settings.dsn.get_secret_value()
    monkeypatch.setenv("CDC_SOURCE__DSN", make_conninfo(dsn, options="-c role=pg_monitor"))
    assert run("--no-settle") == ExitCode.CONFIGURATION
    assert "grant it SELECT" in capsys.readouterr().err


def test_by_default_it_waits_for_what_the_consumer_recorded(
    sides: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing settled in time it exits 4 and says what to look at; with enough settled it compares."""
    sides.both(LOAD, "1", double_v=1.0)
    assert run("--settle-timeout", "0") == ExitCode.UNREACHABLE
    assert "is `cdc-consumer run` working" in capsys.readouterr().err
    write_settled(sides.target, PIPELINE, Settled(1, 1))
    assert run("--settle-timeout", "0") == ExitCode.UNREACHABLE
    write_settled(sides.target, PIPELINE, Settled(1, FAR_LSN))
    assert run() == ExitCode.DONE


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from", "yesterday"], ExitCode.USAGE, "is not a timestamp like"),
        (["--from", "2026-01-01T00:00:00+02:00"], ExitCode.USAGE, "time zone"),
        (["--from", "2026-01-02", "--until", "2026-01-02"], ExitCode.USAGE, "must lie before"),
        (["--ship-id", "IMO0000000", "--no-settle"], ExitCode.CONFIGURATION, "Neither side knows"),
    ],
    ids=["no timestamp", "a time zone", "an empty range", "an unknown ship"],
)
def test_a_mistake_is_one_clear_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, message: str
) -> None:
    """No traceback, and an exit code by kind."""
    assert run(*arguments) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_target_without_layout_names_the_command_that_makes_one(
    sides: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verify is run before `schema apply`."""
    sides.target.execute("CREATE TEMP TABLE kept AS TABLE layout")
    sides.target.execute("DELETE FROM layout")
    try:
        assert run("--no-settle") == ExitCode.CONFIGURATION
        assert "cdc-consumer schema apply" in capsys.readouterr().err
    finally:
        sides.target.execute("INSERT INTO layout TABLE kept")
        sides.target.execute("DROP TABLE kept")
