"""`backfill retry`: failed ranges of a file and of the ledger are copied again, and what is left is told."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from backfill import plans, retry_command
from backfill.copier import Copier
from backfill.ledger import Copied
from backfill.pace import Load
from backfill.planner import Bounds
from backfill.reader import Reader, Reading
from backfill.retry import Retry, Tally
from backfill.scope import Scope
from backfill.source_watch import SourceWatch
from backfill.writing import PatientWriter
from tests.backfill_world import CHANNELS, SHIPS, World
from widetable.apply import Writer
from widetable.control import use_control
from widetable.errors import ExitCode, RetryableError, StoppedError
from widetable.freeing import LESSER_WRITER, freeing
from widetable.hand_off import HandOff
from widetable.postgres import Connection, connect_target

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

MINUTE_US = 60_000_000
START_US = 1_735_689_600_000_000  # 2025-01-01
PARTS = [
    Bounds(None, START_US + MINUTE_US, 72),
    Bounds(START_US + MINUTE_US, START_US + 2 * MINUTE_US, 72),
    Bounds(START_US + 2 * MINUTE_US, None, 72),
]
PER_MINUTE = 4 * len(CHANNELS)
"""Rows of one ship."""


@pytest.fixture
def failed(emptied: World) -> World:
    """Three minutes of samples behind a hand-off; of three slices, the second and third were given up."""
    emptied.fill(12)
    emptied.hand_off(barrier_xid=3)
    plans.add_plan(emptied.target, "narrow_to_wide", 1, Scope(SHIPS), PARTS)
    emptied.target.execute(
        "UPDATE slice SET state = 'failed', attempt = 8, error = 'no luck' WHERE slice_no > 1"
    )
    emptied.target.execute("UPDATE slice SET state = 'done' WHERE slice_no = 1")
    return emptied


def second_and_third(world: World) -> dict[tuple[str, str, str], str]:
    """The cells of the failed slices."""
    return {key: value for key, value in world.narrow_cells().items() if key[1] >= "2025-01-01 00:01:00"}


def test_failed_chunks_are_not_done_until_their_data_is_there(
    failed: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """The predecessor marked failed chunks done. Here a slice stays failed, retried or not, until it is copied."""
    assert failed.backfill("retry", "--dry-run") == ExitCode.DONE
    out, err = capsys.readouterr()
    assert f"Would copy 2 ranges, {2 * 3 * PER_MINUTE} rows" in out
    assert f"slice 2: {3 * PER_MINUTE} rows of {', '.join(SHIPS)}" in err
    assert failed.states() == {"done": 1, "failed": 2}
    assert failed.wide_cells() == {}
    assert failed.backfill("retry") == ExitCode.DONE
    assert "2 failed slices done" in capsys.readouterr().out
    assert failed.states() == {"done": 3}
    assert failed.wide_cells() == second_and_third(failed)
    assert failed.one("SELECT finished_at IS NOT NULL FROM plan") is True
    assert failed.one("SELECT ship_rows FROM slice WHERE slice_no = 2") == dict.fromkeys(SHIPS, PER_MINUTE)
    assert failed.backfill("retry") == ExitCode.DONE
    assert "Copied 0 ranges" in capsys.readouterr().out


def test_the_list_of_failed_slices_goes_back_into_retry(
    failed: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status --failed --csv` writes what `retry FILE` reads; a slice is done with the last of its ships."""
    assert failed.backfill("status", "--failed", "--csv") == ExitCode.DONE
    listed = capsys.readouterr().out
    assert listed.splitlines()[:2] == [
        "ship,start,end",
        f"{SHIPS[0]},2025-01-01T00:01:00,2025-01-01T00:02:00",
    ]
    assert listed.splitlines()[-1] == f"{SHIPS[-1]},2025-01-01T00:02:00,"
    file = tmp_path / "failed.csv"
    file.write_text(listed)
    assert failed.backfill("retry", str(file), "--ship-id", SHIPS[0]) == ExitCode.DONE
    assert "4 ranges of other ships passed over" in capsys.readouterr().out
    assert failed.states() == {"done": 1, "failed": 2}
    assert failed.backfill("retry", str(file), "--delay", "0.01") == ExitCode.DONE
    assert "2 failed slices done" in capsys.readouterr().out
    assert failed.states() == {"done": 3}
    assert failed.wide_cells() == second_and_third(failed)
    assert [path.name for path in tmp_path.iterdir()] == ["failed.csv"]


def test_bad_lines_are_left_over_and_the_good_ones_done(
    failed: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with file and line; the still-failed file has the same format, byte for byte; exit 5."""
    good = f"{SHIPS[1]},2025-01-01T00:00:00,2025-01-01T00:01:00\r\n"
    bad = [
        "IMO42,2025-01-01,2025-01-02\r\n",
        f"{SHIPS[0]},2025-01-02\r\n",
        f"{SHIPS[0]},2025-01-02,2025-01-01\r\n",
    ]
    file = tmp_path / "failed.csv"
    file.write_text("\ufeffship,start,end\r\n" + bad[0] + good + bad[1] + bad[2], newline="")
    assert failed.backfill("retry", str(file)) == ExitCode.PARTIAL
    out, err = capsys.readouterr()
    assert [f"{file}:{line}: " in err for line in (2, 3, 4, 5)] == [True, False, True, True]
    assert f"Copied 1 ranges, {PER_MINUTE} rows, 3 bad lines" in out
    left = tmp_path / "failed.still-failed.csv"
    assert str(left) in err
    assert left.read_bytes().decode() == "ship,start,end\n" + "".join(bad)
    assert {key[0] for key in failed.wide_cells()} == {SHIPS[1]}
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert failed.backfill("retry", str(empty)) == ExitCode.PARTIAL
    assert f"{empty}:1: the file is empty" in capsys.readouterr().err


def test_a_range_that_fails_again_costs_no_other(
    failed: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left over; what stops everything leaves all that was not tried."""
    copy = Copier.copy

    def fails(self: Copier, ships: tuple[str, ...], bounds: Bounds) -> Copied:
        if bounds.lower_us == PARTS[1].lower_us:
            raise RetryableError("no luck again")
        return copy(self, ships, bounds)

    monkeypatch.setattr(Copier, "copy", fails)
    left = tmp_path / "left.csv"
    assert failed.backfill("retry", "--still-failed", str(left)) == ExitCode.PARTIAL
    assert "slice 2: no luck again" in capsys.readouterr().err
    assert failed.states() == {"done": 2, "failed": 1}
    assert left.read_text().count("2025-01-01T00:01:00,2025-01-01T00:02:00\n") == len(SHIPS)

    def stops(_self: Copier, _ships: tuple[str, ...], _bounds: Bounds) -> Copied:
        raise StoppedError("another cluster")

    monkeypatch.setattr(Copier, "copy", stops)
    monkeypatch.chdir(tmp_path)
    assert failed.backfill("retry", "left.csv") == ExitCode.STOPPED
    assert Path("left.still-failed.csv").read_text() == left.read_text()


def test_a_signal_leaves_what_was_not_tried(
    failed: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The range in work is finished, the others are left over."""
    copy = Copier.copy

    class Interrupted(Retry):
        """Hears a signal while the first range is in work."""

        def run(self) -> Tally:
            """Interrupted in its first copy."""

            def once(copier: Copier, ships: tuple[str, ...], bounds: Bounds) -> Copied:
                self._wish.hear(2, None)
                return copy(copier, ships, bounds)

            monkeypatch.setattr(Copier, "copy", once)
            return super().run()

    monkeypatch.setattr(retry_command, "Retry", Interrupted)
    left = tmp_path / "left.csv"
    assert failed.backfill("retry", "--still-failed", str(left), "--delay", "60") == ExitCode.PARTIAL
    assert "1 ranges not tried" in capsys.readouterr().out
    assert failed.states() == {"done": 2, "failed": 1}
    assert len(left.read_text().splitlines()) == 1 + len(SHIPS)


def test_large_ranges_are_cut_and_outages_waited_for(
    failed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range of many slices is copied part by part, over new sessions where one is lost."""
    failed.fill(400, start="2025-02-01")
    file = tmp_path / "failed.csv"
    file.write_text(f"{SHIPS[0]},2025-02-01,2025-03-01\n")
    broken = iter([True])
    once = Copier._once

    def breaks(self: Copier, *arguments: object) -> Copied:
        if next(broken, False):
            failed.target.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'backfill retry' AND datname = current_database()"
            )
        return once(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Copier, "_once", breaks)
    assert failed.backfill("retry", str(file)) == ExitCode.DONE
    wanted = {k: v for k, v in failed.narrow_cells().items() if k[0] == SHIPS[0] and k[1] >= "2025-02"}
    assert failed.wide_cells() == wanted
    assert failed.one("SELECT count(*) FROM writer_session") == 0


def test_a_range_read_in_one_epoch_is_read_again_in_the_next(
    failed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a slice is; it costs an attempt, not the range."""
    read, epochs = Reader.read, list[int]()

    def read_before_reinit(self: Reader, bounds: Bounds, hand_off: HandOff | None) -> Reading:
        assert hand_off is not None
        epochs.append(hand_off.epoch)
        reading = read(self, bounds, hand_off)
        if len(epochs) == 1:
            failed.hand_off(epoch=2, barrier_xid=3)
        return reading

    monkeypatch.setattr(Reader, "read", read_before_reinit)
    assert failed.backfill("retry") == ExitCode.DONE
    assert epochs == [1, 2, 2]
    assert failed.wide_cells() == second_and_third(failed)


def test_live_data_ends_a_retry_that_keeps_it_waiting(emptied: World) -> None:
    """As it ends a slice; what the retry had in work is done again over a new session."""
    settings = emptied.settings()
    table = emptied.wide_table(SHIPS[0], 1).as_string()
    tries: list[int] = []

    def live() -> Connection:
        conn = connect_target(settings.target, "live")
        use_control(conn, settings.target.control_schema)
        return conn

    def write(conn: Connection, _writer: Writer) -> int:
        tries.append(conn.info.backend_pid)
        with conn.transaction():
            conn.execute(f"INSERT INTO {table} (created_time) VALUES (%s)".encode(), ["2025-01-01"])
            if len(tries) == 1:
                with closing(live()) as waiting, freeing(waiting, live, LESSER_WRITER, 0.1):
                    waiting.execute(f"INSERT INTO {table} (created_time) VALUES ('2025-01-01')".encode())
                    waiting.execute(f"DELETE FROM {table}".encode())
            return conn.execute("SELECT 1").rowcount

    writer = PatientWriter(settings, "retry")
    with closing(writer):
        assert writer.run(write) == 1
    assert len(set(tries)) == 2


def test_retry_wants_the_hand_off_that_run_wants(emptied: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one it must be asked for by name; --csv belongs to --failed."""
    assert emptied.backfill("retry") == ExitCode.CONFIGURATION
    assert "--no-handoff" in capsys.readouterr().err
    assert emptied.backfill("retry", "--no-handoff") == ExitCode.DONE
    assert emptied.backfill("status", "--csv") == ExitCode.USAGE
    assert emptied.backfill("status", "--failed") == ExitCode.DONE
    assert "No failed slices" in capsys.readouterr().out


def test_retry_and_import_pause_while_the_slot_retains_too_much(
    failed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `run` does: nothing is written meanwhile, and all of it afterwards."""
    looks: list[int] = []

    def look(_self: SourceWatch, slot: str | None) -> Load:
        assert slot == "no_such_slot"
        looks.append(len(failed.wide_cells()))
        return Load(retained=10**15 if len(looks) % 3 else 0)

    monkeypatch.setattr("backfill.brake.SOURCE_LOOK_S", 0.0)
    monkeypatch.setattr("backfill.brake.PAUSED_S", 0.0)
    monkeypatch.setattr("backfill.brake.STEP_S", 60.0)  # a rest in one: no looks but those before a part
    monkeypatch.setattr(SourceWatch, "look", look)
    assert failed.backfill("retry", "--rate-limit", "1e9", "--ship-id", SHIPS[0]) == ExitCode.DONE
    half = len(second_and_third(failed)) // len(SHIPS) // 2
    assert looks == [0, 0, 0, half, half, half]
    (tmp_path / f"{SHIPS[0]}.csv").write_text("created_time,aux/1\n2025-01-01,7\n")
    assert failed.backfill("import", str(tmp_path), "--rate-limit", "1e9") == ExitCode.DONE
    assert looks[6:] == [2 * half] * 3
    assert len(failed.wide_cells()) == 2 * half + 1
    assert capsys.readouterr().err.count("paused: the slot retains") == 3
