"""`backfill verify --repair` heals what it finds, and only a clean verify of everything is one that was due."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backfill.status_command import status
from backfill.verify_command import verify
from tests.integration.test_resync import PIPELINE, hand_over
from tests.verify_sides import LATER, LOAD, NOON, SHIP, SPEED, STATE, Sides
from widetable import command_line
from widetable.errors import ExitCode
from widetable.verify import Scope, settle_due, verify_due

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.verify_fixture"]


@pytest.fixture(autouse=True)
def environment(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings that name both sides, and a hand-off."""
    monkeypatch.setenv("CDC_SOURCE__DSN", sides.source_settings.dsn.get_secret_value())
    monkeypatch.setenv("CDC_TARGET__DSN", sides.target_settings.dsn.get_secret_value())
    hand_over(sides)


def run(*arguments: str) -> int:
    """Run the command without waiting for a stream; returns the exit code."""
    return command_line.exit_code(verify, None, ("--no-settle", *arguments))


def require(sides: Sides, reason: str = "a gap") -> None:
    """Demand a verify of everything."""
    sides.target.execute("UPDATE hand_off SET verify_required = %s", [reason])


def test_what_differs_is_repaired_and_shown(
    sides: Sides, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit 0, with the counts of what was found and of what remains."""
    sides.both(LOAD, "1", double_v=2.0)
    sides.sample(SPEED, double_v=1.0)
    sides.hold(STATE, "x", LATER)
    file = tmp_path / "report.json"
    assert run("--report", str(file)) == ExitCode.PARTIAL
    assert json.loads(file.read_text())["remaining"] == 3
    assert run("--repair", "--report", str(file)) == ExitCode.DONE
    report = json.loads(file.read_text())
    found = {name: report[name] for name in ("missing", "different", "phantom", "repaired", "remaining")}
    assert found == {"missing": 1, "different": 1, "phantom": 1, "repaired": 3, "remaining": 0}
    assert report["agrees"]
    assert "repaired" in capsys.readouterr().out
    assert run() == ExitCode.DONE
    (through,) = sides.target.execute("SELECT verified_through::text FROM verified").fetchall()
    assert through == ("2026-01-01 12:00:00.000001",)


def test_what_a_later_version_holds_remains_and_exits_5(
    sides: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resync yields to what this epoch's stream has recorded: such a cell is a fault to be looked at."""
    sides.sample(LOAD, double_v=2.0)
    sides.hold(LOAD, "1")
    query = f"""UPDATE tenant.tbl_data_timeseries_{SHIP.lower()}_1 SET _x = (
        SELECT jsonb_build_object(ordinal, '[2, 9, "u"]'::jsonb) FROM channel WHERE channel_id = %s)"""
    sides.target.execute(query.encode(), [LOAD])
    assert run("--repair") == ExitCode.PARTIAL
    assert "1 cells differ" in capsys.readouterr().err


def test_corrected_cells_and_those_beyond_the_source_are_never_repaired(sides: Sides) -> None:
    """They are no faults."""
    sides.both(LOAD, "1", LATER, double_v=1.0)
    sides.sample(SPEED, LATER, double_v=1.0)
    sides.hold(SPEED, "7", LATER, kind="k")
    sides.hold(LOAD, "9", NOON)
    assert run("--repair") == ExitCode.DONE
    report = sides.verify()
    assert (report.corrected, report.beyond_source) == (1, 1)


def test_a_due_verify_is_done_only_by_a_clean_one_of_everything(sides: Sides) -> None:
    """Not by a part, nor by one that leaves a difference; one that repaired them all is clean."""
    sides.both(LOAD, "1", double_v=2.0)
    require(sides)
    for arguments in ([], ["--ship-id", SHIP, "--repair"], ["--until", "2030-01-01"]):
        run(*arguments)
        assert [reason for _, _, reason in verify_due(sides.target, PIPELINE)] == ["a gap"]
    sides.hold(SPEED, "7")
    assert run("--repair") == ExitCode.DONE
    assert verify_due(sides.target, PIPELINE) == []


def test_status_says_what_is_proven_and_what_is_due(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    """How far the ships are verified, and why all of it must be done again."""
    assert command_line.exit_code(status, None, ()) == ExitCode.DONE
    assert "Verified: nothing yet." in capsys.readouterr().out
    sides.both(LOAD, "1", double_v=1.0)
    run()
    require(sides)
    assert command_line.exit_code(status, None, ()) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "Verified: 1 ships, through 2026-01-01 12:00:00.000001" in out
    assert "Verify is due: a gap" in out


def test_a_verify_that_began_before_the_demand_does_not_meet_it(sides: Sides) -> None:
    """Even if the demand is worded as the one before."""
    sides.both(LOAD, "1", double_v=1.0)
    require(sides)
    due = verify_due(sides.target, PIPELINE)
    require(sides)
    settle_due(sides.target, PIPELINE, due, Scope(), sides.verify())
    assert verify_due(sides.target, PIPELINE) != []
    assert run() == ExitCode.DONE
    assert verify_due(sides.target, PIPELINE) == []
