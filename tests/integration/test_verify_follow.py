"""`backfill verify --follow`: nothing that is not proven is published, whatever comes between."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backfill.verify_command import verify
from devstack.product import Process, Product
from tests.integration.test_resync import EPOCH, PIPELINE, hand_over
from tests.narrow_batches import narrow_batch
from tests.verify_sides import LATER, LOAD, NOON, SHIP, SISTER, SPEED, STATE, Sides
from tests.waiting import wait_until
from widetable import command_line
from widetable.control import check_control
from widetable.errors import ExitCode, RetryableError
from widetable.postgres import connect_target
from widetable.touched import note_touched
from widetable.verify import Follower, Leisure, Memory, Recheck, Source, Target, verify_due

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.verify_fixture"]

NOON_US = 1_767_268_800_000_000
EVENING = "2026-01-01 18:00:00"
AT_ONCE = Leisure(rest_s=0, lap_s=3600)


class Watching:
    """A follower whose rounds are made by hand."""

    def __init__(self, sides: Sides, recheck: Recheck, leisure: Leisure, **verifier: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.memory = Memory()
        self.recheck = recheck
        self._sides = sides
        source = Source(sides.source, "tenant.tbl_data_timeseries")
        target = Target(sides.target, sides.target_settings.control_schema)
        made = sides.verifier(**verifier)
        self.follower = Follower(source, target, recheck, made, leisure, self.memory, self.events.append)

    def rounds(self) -> list[dict[str, Any]]:
        """Rounds until there is nothing to look at; what was told meanwhile."""
        told = len(self.events)
        while self.follower.round():
            pass
        return self.events[told:]

    def looked(self) -> list[tuple[str, int]]:
        """Rounds; where they looked, and how many cells were compared."""
        return [(one["at"], one["cells_compared"]) for one in self.rounds() if one["event"] == "looked"]


@pytest.fixture
def recheck(sides: Sides) -> Iterator[Recheck]:
    """Nobody has followed yet."""
    sides.target.execute("TRUNCATE verify_lap, recheck, plan, slice")
    hand_over(sides)
    recheck = Recheck(sides.target, PIPELINE)
    recheck.enter()
    yield recheck
    sides.target.execute("SELECT pg_advisory_unlock_all()")
    sides.target.execute("TRUNCATE verify_lap, recheck, plan, slice")


def watch(sides: Sides, recheck: Recheck, leisure: Leisure = AT_ONCE, **verifier: Any) -> Watching:
    """Begin to follow."""
    return Watching(sides, recheck, leisure, **verifier)


def touch(sides: Sides, at_us: int = NOON_US, ship: str = SHIP) -> None:
    """What the consumer notes with a batch of one sample."""
    note_touched(sides.target, PIPELINE, narrow_batch([{"ship_id": ship, "created_time": at_us}]))


def verified(sides: Sides) -> dict[str, str]:
    """What is published: moments by ship."""
    return dict(sides.target.execute("SELECT ship_id, verified_through::text FROM verified").fetchall())


@contextmanager
def another_session(sides: Sides) -> Iterator[Any]:
    """Of the target."""
    with closing(connect_target(sides.target_settings, "another")) as conn:
        check_control(conn, sides.target_settings.control_schema)
        yield conn


def test_a_lap_proves_piece_by_piece_and_goes_on_where_it_was(sides: Sides, recheck: Recheck) -> None:
    """Oldest first; another follower goes on; ships without newer cells are proven with the others."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    sides.both(LOAD, "1", EVENING, SISTER, double_v=1.0)
    sides.both(STATE, "x", NOON, str_v="x")
    sides.both(SPEED, "1", NOON, double_v=1.0)
    sides.source.execute("ANALYZE tenant.tbl_data_timeseries")
    small = Leisure(piece_rows=1, rest_s=0, lap_s=3600)
    first = watch(sides, recheck, small)
    assert first.follower.round()
    between = verified(sides)
    assert between.keys() == {SHIP, SISTER}
    assert "2026-01-01 12:00" < between[SHIP] < EVENING
    recheck.enter()
    told = watch(sides, recheck, small).rounds()
    assert sum(one["cells_compared"] for one in told if one["event"] == "looked") == 1
    assert [one["laps"] for one in told if one["event"] == "lap"] == [1]
    assert verified(sides)[SISTER] == "2026-01-01 18:00:00.000001"
    assert recheck.lap().laps == 1


def test_what_is_touched_is_looked_at_again_and_moves_the_proven_moment_on(
    sides: Sides, recheck: Recheck
) -> None:
    """Also over hours in which a ship was silent."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    watching = watch(sides, recheck)
    assert watching.looked() == [("lap", 1)]
    sides.both(LOAD, "1", EVENING, double_v=1.0)
    assert watching.looked() == []
    touch(sides, NOON_US + 6 * 3_600_000_000)
    assert watching.looked() == [("touched", 1)]
    assert verified(sides) == {SHIP: "2026-01-01 18:00:00.000001"}
    assert recheck.waiting() == 0


def test_nobody_notes_what_is_touched_while_nobody_follows(sides: Sides) -> None:
    """A pipeline without a follower costs nothing."""
    sides.target.execute("TRUNCATE verify_lap, recheck")
    touch(sides)
    assert sides.target.execute("SELECT FROM recheck").fetchall() == []


def test_a_touch_during_a_look_is_looked_at_once_more(sides: Sides, recheck: Recheck) -> None:
    """The stretch that is being looked at gets another row, which that look does not remove."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    watching = watch(sides, recheck, settle=lambda _lsn: None)
    watching.rounds()
    touch(sides)
    meanwhile = watch(sides, recheck, settle=lambda _lsn: touch(sides))
    meanwhile.follower.round()
    assert recheck.waiting() == 1
    assert watching.looked() == [("touched", 1)]
    assert recheck.waiting() == 0


def test_writers_do_not_wait_for_each_other_or_for_a_look(sides: Sides, recheck: Recheck) -> None:
    """A transaction that notes a known stretch holds no lock on it."""
    touch(sides)
    with another_session(sides) as conn, conn.transaction():
        note_touched(conn, PIPELINE, narrow_batch([{"ship_id": SHIP, "created_time": NOON_US}]))
        sides.target.execute("SET statement_timeout = 2000")
        try:
            touch(sides)
            assert len(recheck.take(0)) == 1
        finally:
            sides.target.execute("RESET statement_timeout")


def test_a_difference_takes_back_what_was_published_until_it_agrees_again(
    sides: Sides, recheck: Recheck
) -> None:
    """It is told once, looked at again, and holds back what comes after it."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    sides.both(LOAD, "1", LATER, double_v=1.0)
    watching = watch(sides, recheck)
    watching.rounds()
    sides.update(LOAD, LATER, double_v=2.0)
    touch(sides)
    watching.follower.round()
    (difference,) = [one for one in watching.events if one["event"] == "difference"]
    assert (difference["kind"], difference["created_time"]) == ("different", "2026-01-01T12:00:15.000000")
    assert verified(sides) == {SHIP: LATER}
    assert len(watching.memory.doubts) == 1
    sides.both(LOAD, "1", EVENING, double_v=1.0)
    touch(sides, NOON_US + 6 * 3_600_000_000)
    watching.follower.round()
    assert verified(sides) == {SHIP: LATER}
    assert len([one for one in watching.events if one["event"] == "difference"]) == 1
    sides.hold(LOAD, "2", LATER)
    sides.target.execute("UPDATE recheck SET tried_at = tried_at - interval '1 s'")
    watching.follower.round()
    touch(sides, NOON_US + 6 * 3_600_000_000)
    watching.rounds()
    assert verified(sides) == {SHIP: "2026-01-01 18:00:00.000001"}
    assert not watching.memory.doubts


def test_a_lap_that_finds_a_difference_goes_on_and_comes_back_to_it(sides: Sides, recheck: Recheck) -> None:
    """The stretch behind the first cell that differs waits in the queue, and the demand stands."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    sides.sample(SPEED, LATER, double_v=1.0)
    sides.both(LOAD, "1", NOON, SISTER, double_v=1.0)
    sides.target.execute("UPDATE hand_off SET verify_required = 'a gap'")
    watching = watch(sides, recheck, Leisure(rest_s=3600, lap_s=3600))
    watching.rounds()
    assert verified(sides) == {SHIP: LATER, SISTER: "2026-01-01 12:00:00.000001"}
    assert recheck.waiting() == 1
    assert verify_due(sides.target, PIPELINE)
    sides.hold(SPEED, "1", LATER)
    assert watch(sides, recheck, AT_ONCE).looked() == [("touched", 1)]
    assert verified(sides)[SHIP] == "2026-01-01 12:00:15.000001"


def test_a_demand_to_verify_everything_begins_a_lap_and_is_met_by_it(sides: Sides, recheck: Recheck) -> None:
    """What was published before holds no more; a lap that began before the demand does not meet it."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    watching = watch(sides, recheck)
    watching.rounds()
    sides.target.execute("UPDATE hand_off SET verify_required = 'a gap'")
    seen: list[dict[str, str]] = []
    watch(sides, recheck, settle=lambda _lsn: seen.append(verified(sides))).follower.round()
    assert seen == [{}]
    assert verify_due(sides.target, PIPELINE) == []
    assert verified(sides) == {SHIP: "2026-01-01 12:00:00.000001"}


def test_what_a_dead_follower_had_taken_waits_again(sides: Sides, recheck: Recheck) -> None:
    """With what was touched meanwhile, as one."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    watching = watch(sides, recheck)
    watching.rounds()
    touch(sides)
    assert recheck.take(0) != []
    touch(sides)
    recheck.enter()
    assert recheck.waiting() == 1
    assert watching.looked() == [("touched", 1)]


def test_there_is_one_follower(sides: Sides, recheck: Recheck) -> None:
    """Another one stands by."""
    with another_session(sides) as conn, pytest.raises(RetryableError, match=r"another .* watches"):
        Recheck(conn, PIPELINE).enter()
    assert recheck.lap().laps == 0


def test_history_that_is_being_copied_is_waited_for(sides: Sides, recheck: Recheck) -> None:
    """What is not copied yet is not missing."""
    sides.sample(LOAD, double_v=1.0)
    waiting_slice(sides, epoch=EPOCH)
    watching = watch(sides, recheck)
    assert [one["event"] for one in watching.rounds()] == ["waiting"]
    sides.hold(LOAD, "1")
    sides.target.execute("UPDATE slice SET state = 'done'")
    assert watching.looked() == [("lap", 1)]


def waiting_slice(sides: Sides, epoch: int | None) -> None:
    """A plan of one slice that nobody has copied."""
    plan = sides.target.execute(
        "INSERT INTO plan (pipeline, epoch, ships) VALUES (%s, %s, '{A}') RETURNING plan_id",
        [PIPELINE, epoch],
    ).fetchall()[0]
    sides.target.execute("INSERT INTO slice (plan_id, slice_no) VALUES (%s, 1)", plan)


def test_a_copy_without_a_hand_off_that_was_given_up_is_not_waited_for(
    sides: Sides, recheck: Recheck
) -> None:
    """Since there is a hand-off nobody can go on with it."""
    sides.both(LOAD, "1", double_v=1.0)
    waiting_slice(sides, epoch=None)
    assert watch(sides, recheck).looked() == [("lap", 1)]


def test_ships_that_nobody_compares_leave_the_queue(sides: Sides, recheck: Recheck) -> None:
    """One that left no trace on either side."""
    sides.both(LOAD, "1", double_v=1.0)
    watching = watch(sides, recheck)
    watching.rounds()
    touch(sides, ship="GHOST")
    watching.rounds()
    assert recheck.waiting() == 0


def test_an_empty_source_is_no_fault(sides: Sides, recheck: Recheck) -> None:
    """There is nothing to look at."""
    assert watch(sides, recheck).rounds() == []


@pytest.mark.parametrize("option", ["--fail-fast", "--from=2026-01-01", "--ship-id=A", "--report=x"])
def test_what_makes_no_sense_for_ever_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2."""
    assert command_line.exit_code(verify, None, ("--follow", option)) == ExitCode.USAGE
    assert "--follow" in capsys.readouterr().err


def events(process: Process, name: str) -> list[dict[str, Any]]:
    """What a following process has told."""
    found = [json.loads(one) for one in process.log.read_text().splitlines() if one.startswith("{")]
    return [one for one in found if one["event"] == name]


SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%follow'"


@pytest.mark.usefixtures("recheck")
def test_a_process_repairs_outlives_cut_sessions_and_ends_at_sigterm(sides: Sides, tmp_path: Path) -> None:
    """As a supervisor runs it; exit code 0 when nothing is in doubt."""
    sides.target.execute("SELECT pg_advisory_unlock_all()")
    sides.both(LOAD, "1", double_v=2.0)
    sides.hold(STATE, "x", LATER)
    product = Product(
        {
            "CDC_SOURCE__DSN": sides.source_settings.dsn.get_secret_value(),
            "CDC_TARGET__DSN": sides.target_settings.dsn.get_secret_value(),
        },
        tmp_path,
    )
    process = product.start("backfill", "verify", "--follow", "--no-settle", "--repair", "--json")
    try:
        wait_until(lambda: events(process, "lap"), "a lap")
        assert [one["repaired"] for one in events(process, "looked")] == [2]
        assert sides.verify().agrees
        for conn in (sides.source, sides.target):
            conn.execute(SESSIONS)
        wait_until(lambda: events(process, "outage"), "an outage")
        sides.both(LOAD, "1", EVENING, double_v=1.0)
        touch(sides, NOON_US + 6 * 3_600_000_000)
        sides.target.execute("UPDATE recheck SET since = since - interval '1 h'")
        wait_until(lambda: verified(sides)[SHIP] > EVENING, "the new cell is proven")
        process.child.send_signal(signal.SIGTERM)
        assert process.child.wait(20) == ExitCode.DONE, process.log.read_text()
        assert events(process, "ended") == [events(process, "ended")[0] | {"in_doubt": 0}]
    finally:
        product.kill_started()


@pytest.mark.usefixtures("recheck")
def test_a_process_that_ends_with_doubts_says_so(sides: Sides, tmp_path: Path) -> None:
    """Exit code 5; Ctrl+C is as good as SIGTERM."""
    sides.target.execute("SELECT pg_advisory_unlock_all()")
    sides.sample(LOAD, double_v=2.0)
    dsns = {"SOURCE": sides.source_settings.dsn, "TARGET": sides.target_settings.dsn}
    product = Product({f"CDC_{side}__DSN": dsn.get_secret_value() for side, dsn in dsns.items()}, tmp_path)
    process = product.start("backfill", "verify", "--follow", "--no-settle")
    try:
        wait_until(lambda: "lap 1 is finished" in process.log.read_text(), "a lap")
        process.child.send_signal(signal.SIGINT)
        assert process.child.wait(20) == ExitCode.PARTIAL
        assert f"missing  {SHIP}  2026-01-01T12:00:00.000000  {LOAD}" in process.log.read_text()
    finally:
        product.kill_started()
