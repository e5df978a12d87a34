"""Whoever dies at whatever point: a slice is done if and only if its data is there, and a run resumes by itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psutil
import psycopg
import pytest

from tests.backfill_world import SHIPS, START, World, wait_until
from widetable.errors import ExitCode

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

BLOCKED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'backfill writer' AND wait_event_type = 'Lock'
"""


@contextmanager
def held_table(world: World) -> Iterator[None]:
    """Let nobody write the last wide table: workers stand still when they have written all the others."""
    with closing(psycopg.connect(world.target_dsn)) as conn:
        name = world.wide_table(SHIPS[-1], 3).as_string()
        conn.execute(f"LOCK TABLE {name} IN SHARE MODE".encode())
        yield


def blocked(world: World, workers: int = 1) -> None:
    """Wait until that many workers stand still."""
    wait_until(lambda: world.one(BLOCKED) == workers, "workers in mid-slice")


def workers_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes of a run (multiprocessing keeps a resource tracker beside them)."""
    family = psutil.Process(run.pid).children(recursive=True)
    return [child for child in family if "spawn_main" in " ".join(child.cmdline())]


def finish(run: subprocess.Popen[str], timeout_s: float = 60) -> int:
    """Wait for a run; returns its exit code, and shows what it said where that matters."""
    output, _ = run.communicate(timeout=timeout_s)
    print(output)  # noqa: T201 - pytest shows it with a failure
    return run.returncode


def read_until(run: subprocess.Popen[str], text: str) -> None:
    """Wait until a run has said something."""
    said = ""
    assert run.stdout is not None
    while text not in said:
        line = run.stdout.readline()
        assert line, f"it ended without saying {text!r}: {said}"
        said += line


def require_complete(world: World) -> None:
    """Target equals source, every slice is done, and each row was counted once."""
    assert world.wide_cells() == world.narrow_cells()
    assert set(world.states()) <= {"done", "split"}
    assert world.one("SELECT sum(rows) FROM slice") == len(world.narrow_cells())
    assert world.one("SELECT bool_and(finished_at IS NOT NULL) FROM plan") is True


def test_a_worker_killed_in_mid_slice_is_replaced(world: World) -> None:
    """A kill -9 of the only worker while it writes: its slice is claimed again and the run ends complete."""
    world.fill(20)
    world.hand_off()
    with held_table(world):
        run = world.start("run")
        blocked(world)
        (worker,) = workers_of(run)
        worker.kill()
    assert finish(run) == ExitCode.DONE
    require_complete(world)
    assert world.one("SELECT max(attempt) FROM slice") == 2


def test_a_run_killed_in_mid_slice_is_resumed_by_the_next(world: World) -> None:
    """A kill -9 of the parent ends its workers, too; nothing half-written stays, and `run` goes on."""
    world.fill(20)
    world.hand_off()
    with held_table(world):
        run = world.start("run", "--workers", "2")
        blocked(world, workers=2)
        workers = workers_of(run)
        run.kill()
        run.communicate()
        wait_until(
            lambda: not any(worker.is_running() for worker in workers), "workers end with their parent"
        )
        # A backend that waits for a lock does not notice that its client is gone; its transaction never commits.
        assert world.states()["running"] == 2
    assert world.one("SELECT count(*) FROM slice WHERE state = 'done'") == 0
    assert world.backfill("run") == ExitCode.DONE
    require_complete(world)
    assert world.one("SELECT count(*) FROM plan") == 1


def test_two_runs_at_once_share_one_plan(world: World) -> None:
    """Started together, both end with exit 0, on one plan, with every slice done once."""
    world.fill(60)
    world.hand_off()
    runs = [world.start("run", CDC_BACKFILL__SLICE_ROWS="30") for _ in range(2)]
    codes = {finish(run) for run in runs}
    assert codes <= {ExitCode.DONE, ExitCode.PARTIAL}  # the slower one may be told that the plans changed
    assert ExitCode.DONE in codes
    require_complete(world)
    assert world.one("SELECT count(*) FROM plan") == 1
    assert world.one("SELECT max(attempt) FROM slice") == 1


def test_a_second_run_joins_the_first(world: World) -> None:
    """A run started while another is at work takes slices of the same plan, none twice."""
    world.fill(60)
    world.hand_off()
    with held_table(world):
        first = world.start("run", CDC_BACKFILL__SLICE_ROWS="30")
        blocked(world)
        second = world.start("run")
        blocked(world, workers=2)
        assert world.one("SELECT count(DISTINCT worker) FROM slice WHERE state = 'running'") == 2
    assert {finish(first), finish(second)} == {ExitCode.DONE}
    require_complete(world)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl+C"])
def test_a_signal_ends_the_run_after_its_slice(world: World, number: signal.Signals) -> None:
    """The slice in work is finished and recorded, exit 5 says that there is more, and the next run does it."""
    world.fill(20)
    world.hand_off()
    with held_table(world):
        run = world.start("run")
        blocked(world)
        os.kill(run.pid, number)
        read_until(run, "stopping after")
    assert finish(run) == ExitCode.PARTIAL
    states = world.states()
    assert states["done"] >= 1
    assert states["waiting"] >= 1
    assert "running" not in states
    assert world.backfill("run") == ExitCode.DONE
    require_complete(world)


def test_a_slice_that_can_not_end_is_left_at_the_deadline(world: World) -> None:
    """A stop does not wait for a stuck slice for ever: its transaction is rolled back and resumed later."""
    world.fill(20)
    world.hand_off()
    with held_table(world):
        run = world.start("run", CDC_BACKFILL__SHUTDOWN_S="0.5")
        blocked(world)
        run.terminate()
        assert finish(run) == ExitCode.PARTIAL
    assert world.backfill("run") == ExitCode.DONE
    require_complete(world)


@pytest.mark.parametrize("application", ["backfill reader", "backfill writer"])
def test_a_lost_connection_is_replaced(world: World, application: str) -> None:
    """A session ended by the server costs one attempt, not the run."""
    world.fill(20)
    world.hand_off()
    terminate = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE datname = current_database() AND application_name = '{application}'"
    )
    side = world.source if application == "backfill reader" else world.target
    with held_table(world):
        run = world.start("run")
        blocked(world)
        ended = side.execute(terminate.encode()).fetchone()
    assert ended == (1,)
    assert finish(run) == ExitCode.DONE
    require_complete(world)


def test_a_database_that_is_away_is_waited_for(world: World) -> None:
    """While the target refuses connections the run waits; when it is back the run goes on by itself."""
    world.fill(40)
    world.hand_off()
    name = world.one("SELECT current_database()")
    admin_dsn = world.target_dsn.replace(f"/{name}", "/postgres")
    with closing(psycopg.connect(admin_dsn, autocommit=True)) as admin:
        with held_table(world):
            run = world.start("run")
            blocked(world)
            admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false'.encode())
            world.one(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND starts_with(application_name, 'backfill ')"
            )
        assert world.states().get("done", 0) == 0
        read_until(run, "does not answer")
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true'.encode())
    assert finish(run) == ExitCode.DONE
    require_complete(world)


def test_a_slice_that_fails_is_given_up_while_the_others_go_on(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poison slice is tried a bounded number of times; exit 5 and status name it; the next run tries again."""
    monkeypatch.setenv("CDC_BACKFILL__ATTEMPTS", "3")
    world.fill(20)
    world.hand_off()
    name = world.wide_table(SHIPS[0], 2).as_string()
    world.target.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no such luck'; END $$"
    )
    world.target.execute(
        f"CREATE TRIGGER refuse BEFORE INSERT ON {name} FOR EACH ROW"
        f" WHEN (NEW.created_time = timestamp '{START}' + interval '30 s') EXECUTE FUNCTION refuse()".encode()
    )
    assert world.backfill("run") == ExitCode.PARTIAL
    assert world.states()["failed"] == 1
    assert set(world.states()) == {"failed", "done"}
    assert world.one("SELECT attempt FROM slice WHERE state = 'failed'") == 3
    assert world.backfill("status") == ExitCode.DONE
    assert "no such luck" in capsys.readouterr().out
    world.target.execute(f"DROP TRIGGER refuse ON {name}".encode())
    assert world.backfill("run") == ExitCode.DONE
    require_complete(world)


def test_a_slice_that_kills_its_workers_is_given_up(world: World) -> None:
    """Workers that die on the same slice again and again (out of memory) don't do so for ever."""
    world.fill(20)
    world.hand_off()
    run = world.start("run", CDC_BACKFILL__ATTEMPTS="2")
    for _ in range(2):
        with held_table(world):
            blocked(world)
            slice_no = world.one("SELECT slice_no FROM slice WHERE state = 'running'")
            (worker,) = workers_of(run)
            worker.kill()
            worker.wait()
            # Its session would wait for the lock, without its client, until we let go.
            world.one(
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'backfill writer'"
            )
    assert finish(run) == ExitCode.PARTIAL
    failed = world.target.execute("SELECT slice_no, error FROM slice WHERE state = 'failed'").fetchall()
    assert [number for number, _ in failed] == [slice_no]
    assert "2 times" in failed[0][1]
