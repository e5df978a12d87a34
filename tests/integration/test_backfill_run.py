"""`backfill run` on real databases: what it copies, what it refuses, what it writes down."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from backfill import plans
from backfill.planner import Bounds
from backfill.scope import Scope
from tests.backfill_world import SHIPS, World
from tests.interrupting import interruptible
from widetable import state
from widetable.errors import ExitCode

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres


def test_every_narrow_cell_arrives(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a run, target equals source; ledger, report and answer agree on the number of rows."""
    rows = world.fill(30)
    world.hand_off()
    assert world.backfill("run", "--report", str(tmp_path / "report.json")) == ExitCode.DONE
    assert world.wide_cells() == world.narrow_cells()
    assert world.one("SELECT sum(rows) FROM slice") == rows
    assert world.one("SELECT count(*) FROM slice WHERE snapshot IS NULL") == 0
    assert world.one("SELECT finished_at IS NOT NULL FROM plan") is True
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["rows"], report["cells"], report["slices"]) == (rows, rows, world.states()["done"])
    assert report["rows_per_second"] == pytest.approx(rows / report["seconds"], rel=0.01)
    assert f"Copied {rows:,} rows" in capsys.readouterr().out


def test_a_second_run_finds_nothing_to_do(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished plan of the same scope is left alone: exit 0, no new plan, no slice read again."""
    world.fill(10)
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    slices = "SELECT slice_no, attempt, done_at FROM slice ORDER BY slice_no"
    before = world.target.execute(slices).fetchall()
    capsys.readouterr()
    assert world.backfill("run") == ExitCode.DONE
    assert "nothing to do" in capsys.readouterr().err
    assert world.target.execute(slices).fetchall() == before
    assert world.one("SELECT count(*) FROM plan") == 1


def test_again_rewrites_no_row_that_is_there(world: World) -> None:
    """`--again` reads everything once more and leaves each tuple as it is."""
    world.fill(10)
    world.hand_off()
    table = world.wide_table(SHIPS[0], 2).as_string()
    assert world.backfill("run") == ExitCode.DONE
    before = world.target.execute(f"SELECT ctid, xmin FROM {table}".encode()).fetchall()
    assert world.backfill("run", "--again") == ExitCode.DONE
    assert world.one("SELECT count(*) FROM plan WHERE finished_at IS NOT NULL") == 2
    assert world.target.execute(f"SELECT ctid, xmin FROM {table}".encode()).fetchall() == before


def test_a_run_without_hand_off_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """No hand-off: exit 3, the message names `init` and the way around, nothing is written."""
    world.fill(5)
    assert world.backfill("run") == ExitCode.CONFIGURATION
    message = capsys.readouterr().err
    assert "cdc-consumer init" in message
    assert "--no-handoff" in message
    assert world.one("SELECT count(*) FROM plan") == 0


def test_a_copy_without_hand_off_does_not_count_once_there_is_one(world: World) -> None:
    """Slices read without the barrier are read again after `init`, and the flag is refused from then on."""
    world.fill(10)
    assert world.backfill("run", "--no-handoff") == ExitCode.DONE
    world.hand_off()
    assert world.backfill("run", "--no-handoff") == ExitCode.CONFIGURATION
    assert world.backfill("run") == ExitCode.DONE
    plans = world.target.execute("SELECT epoch, finished_at IS NOT NULL FROM plan ORDER BY plan_id")
    assert plans.fetchall() == [(None, True), (1, True)]


def test_a_new_epoch_keeps_done_slices(world: World) -> None:
    """After `reinit` there is nothing to copy again: verify and resync heal the gap."""
    world.fill(10)
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    world.hand_off(epoch=2)
    assert world.backfill("run") == ExitCode.DONE
    assert world.one("SELECT count(*) FROM plan") == 1


def test_a_dry_run_writes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` and `plan` show rows and slices; neither database has a new transaction that wrote."""
    rows = world.fill(10)
    world.hand_off()
    before = [world.one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"), world.wide_cells()]
    assert world.backfill("run", "--dry-run") == ExitCode.DONE
    assert world.backfill("plan") == ExitCode.DONE
    assert f"To copy: {rows:,} rows" in capsys.readouterr().out
    assert [world.one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"), world.wide_cells()] == before


def test_only_the_chosen_ship_and_range_are_copied(world: World) -> None:
    """`--ship-id`, `--from` (inclusive) and `--cutoff-time` (exclusive) bound what is copied."""
    world.fill(10)
    world.hand_off()
    scope = ["--ship-id", SHIPS[1], "--from", "2025-01-01T00:00:30", "--cutoff-time", "2025-01-01T00:01:30"]
    assert world.backfill("run", *scope) == ExitCode.DONE
    wanted = {
        key: value
        for key, value in world.narrow_cells().items()
        if key[0] == SHIPS[1] and "2025-01-01 00:00:30" <= key[1] < "2025-01-01 00:01:30"
    }
    assert len(wanted) == 4 * 6
    assert world.wide_cells() == wanted


def test_a_ship_added_later_is_copied_alone(world: World) -> None:
    """A wider scope plans only the ships that no finished plan covers."""
    world.fill(10)
    world.hand_off()
    assert world.backfill("run", "--ship-id", SHIPS[0], "--ship-id", SHIPS[2]) == ExitCode.DONE
    assert world.backfill("run") == ExitCode.DONE
    assert world.one("SELECT ships FROM plan ORDER BY plan_id DESC LIMIT 1") == [SHIPS[1]]
    assert world.wide_cells() == world.narrow_cells()


@pytest.mark.parametrize("again", [(), ("--again",)], ids=["", "again"])
def test_a_resumed_plan_and_the_ships_that_came_later_are_one_report(
    world: World, tmp_path: Path, again: tuple[str, ...]
) -> None:
    """The newcomers follow in a plan of their own, each ship is copied once, and the report counts all."""
    rows = world.fill(10)
    world.hand_off()
    plans.add_plan(world.target, "narrow_to_wide", 1, Scope(SHIPS[:1]), [Bounds(None, None, 60)])
    file = tmp_path / "report.json"
    assert world.backfill("run", *again, "--report", str(file)) == ExitCode.DONE
    assert world.wide_cells() == world.narrow_cells()
    made = world.target.execute("SELECT ships FROM plan ORDER BY plan_id").fetchall()
    assert made == [(list(SHIPS[:1]),), (list(SHIPS[1:]),)]
    report = json.loads(file.read_text())
    assert (report["rows"], report["cells"], report["slices"]) == (rows, rows, world.states()["done"])
    assert report["rows_per_second"] == pytest.approx(rows / report["seconds"], rel=0.01)


def test_an_unknown_ship_is_refused_with_the_known_ones(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3 and a message that lists the ships there are."""
    assert world.backfill("plan", "--ship-id", "IMO42") == ExitCode.CONFIGURATION
    message = capsys.readouterr().err
    assert all(ship in message for ship in ("IMO42", *SHIPS))


def test_a_ship_without_wide_tables_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """What the source has and nobody copies is said, not passed over."""
    world.add("2025-01-01", 1.0, ship="IMO9999999")
    assert world.backfill("plan") == ExitCode.DONE
    assert "IMO9999999" in capsys.readouterr().out


def test_an_overlapping_open_plan_is_refused_unless_replaced(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two open plans never hold the same cells; `--replace` gives the old one up."""
    world.fill(10)
    world.hand_off()
    assert world.backfill("run", "--ship-id", SHIPS[0]) == ExitCode.DONE
    world.target.execute("UPDATE plan SET finished_at = NULL")
    world.target.execute("UPDATE slice SET state = 'waiting'")
    ranged = ["run", "--from", "2025-01-01T00:01:00"]
    assert world.backfill(*ranged) == ExitCode.CONFIGURATION
    assert f"--ship-id {SHIPS[0]}" in capsys.readouterr().err
    assert world.backfill(*ranged, "--replace") == ExitCode.DONE
    assert world.one("SELECT count(*) FROM plan") == 1
    assert world.one("SELECT from_us IS NOT NULL FROM plan") is True


def test_infinite_moments_become_dead_cells(world: World) -> None:
    """Rows before and after all time are dead cells; the finite ones of the same slices arrive."""
    world.fill(3)
    world.add("-infinity", 1.0)
    world.add("infinity", 2.0, channel="engine/2")
    world.add("4713-01-01 BC", 3.0)
    world.add("9999-12-31 23:59:59.999999", 4.0)
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    dead = "SELECT ship_id, channel_id, created_time, reason FROM dead_cell ORDER BY created_time"
    assert world.target.execute(dead).fetchall() == [
        (SHIPS[0], "engine/1", "-infinity", "infinity"),
        (SHIPS[0], "engine/2", "infinity", "infinity"),
    ]
    assert world.wide_cells() == world.narrow_cells()
    assert (SHIPS[0], "4713-01-01 00:00:00 BC", "engine/1") in world.wide_cells()


def test_an_unknown_channel_goes_to_overflow_and_is_counted(world: World) -> None:
    """A channel without a column costs nothing else of its row; the slice counts its cell."""
    rows = world.fill(3)
    world.add("2025-01-01", 5.0, channel="never/seen")
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    assert world.one("SELECT value FROM overflow_cell WHERE channel_id = 'never/seen'") == "5"
    assert world.one("SELECT sum(cells) FROM slice") == rows + 1


def test_an_empty_source_is_a_plan_of_one_slice(world: World) -> None:
    """Nothing to copy is not an error, and what appears later is the stream's business."""
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    assert world.states() == {"done": 1}


def test_status_tells_plans_and_failures(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """`status` shows each plan's slices and the errors of failed ones, for people and machines."""
    assert world.backfill("status") == ExitCode.DONE
    assert "No plan yet" in capsys.readouterr().out
    world.fill(10)
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    world.target.execute("UPDATE slice SET state = 'failed', error = 'out of luck' WHERE slice_no = 1")
    assert world.backfill("status") == ExitCode.DONE
    assert "out of luck" in capsys.readouterr().out
    assert world.backfill("status", "--json") == ExitCode.DONE
    facts = json.loads(capsys.readouterr().out)
    (plan,) = facts["plans"]
    assert facts["history"]["failed"] == 1
    assert facts["hand_off"]["epoch"] == 1
    assert facts["source"]["state"] == facts["target"]["state"] == "connected"
    assert facts["slot"]["state"].startswith("missing")
    assert (facts["cells"]["overflow_cells"], facts["verified"]["ships"]) == (0, 0)
    assert plan["failed"] == 1
    assert plan["failed_slices"][0]["error"] == "out of luck"
    assert plan["scope"]["ships"] == list(SHIPS)


def test_the_state_tells_speed_time_left_and_how_fresh_each_ship_is(world: World) -> None:
    """What both `status` commands show of history and ships."""
    world.fill(10)
    world.hand_off()
    assert world.backfill("run") == ExitCode.DONE
    world.target.execute("UPDATE slice SET state = 'waiting', rows = NULL WHERE slice_no = 1")
    world.target.execute("UPDATE slice SET estimate = 600 WHERE slice_no = 1")
    world.target.execute("UPDATE plan SET finished_at = NULL")
    world.target.execute(
        "UPDATE slice SET started_at = now() - interval '60 s', done_at = now(), rows = 300 WHERE slice_no = 2"
    )
    world.target.execute("UPDATE slice SET rows = 0 WHERE slice_no > 2")
    (plan,) = state.read_plans(world.target, "narrow_to_wide")
    assert (plan.waiting, plan.rows_left, plan.finished) == (1, 600, False)
    assert plan.rows_per_s == pytest.approx(5, rel=0.2)
    assert plan.eta_s == pytest.approx(120, rel=0.2)
    assert state.history_facts([plan])["state"] == "stands still"
    world.target.execute("INSERT INTO verified VALUES ('narrow_to_wide', %s, '2025-01-01', 7)", [SHIPS[0]])
    first, second, *_ = state.ship_facts(world.target, "narrow_to_wide")["ships"]
    newest = world.source.execute("SELECT max(created_time)::text FROM tenant.tbl_data_timeseries").fetchone()
    assert (first["newest"],) == newest
    assert first["age_s"] > 0
    assert (first["verified_through"], second["verified_through"]) == ("2025-01-01 00:00:00", None)


def test_status_is_watched_until_ctrl_c(world: World) -> None:
    """Block after block off a terminal; a target that is away is a line of it; Ctrl+C is no error."""
    away = {"CDC_SOURCE__DSN": "postgresql://u@127.0.0.1:1/x"}
    with interruptible(), world.start("status", "--watch", "--interval", "0.1", **away) as run:
        assert run.stdout
        seen = ""
        while seen.count("\n-- 2") < 2:
            seen += run.stdout.readline()
            assert seen.endswith("\n"), seen
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 0
    assert "source      The source database does not answer" in seen
    assert "target      connected" in seen
    assert "No plan yet." in seen
