"""Live data does not wait for a backfill that is stuck: a worker stopped in mid-COPY holds its rows for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

from tests.backfill_world import SHIPS, START, World, wait_until
from tests.integration.test_backfill_crash import finish, workers_of
from widetable.control import use_control
from widetable.errors import ExitCode
from widetable.freeing import LESSER_WRITER, freeing
from widetable.postgres import Connection, connect_target, fetch_one
from widetable.settings import TargetSettings

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

PATIENCE_S = 0.5
WRITER = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backfill writer'"
WRITING = f"{WRITER} AND wait_event_type = 'Lock'"
IDLE = f"{WRITER} AND wait_event = 'ClientRead' AND state <> 'idle'"
LOCK_TIMEOUT_S = 8.0


def live(world: World) -> Connection:
    """A session as the live side has it."""
    settings = TargetSettings.model_validate({"dsn": world.target_dsn})
    conn = connect_target(settings, "live")
    use_control(conn, settings.control_schema)
    return conn


@contextmanager
def stopped_worker(world: World) -> Iterator[None]:
    """A run whose only worker was stopped while its transaction holds the rows of all tables but the last."""
    name = world.wide_table(SHIPS[-1], 3).as_string()
    with closing(psycopg.connect(world.target_dsn)) as gate:
        gate.execute(f"LOCK TABLE {name} IN SHARE MODE".encode())
        run = world.start("run", CDC_BACKFILL__SLICE_ROWS="1000000")
        wait_until(lambda: world.one(WRITING) == 1, "the worker in mid-slice")
        (worker,) = workers_of(run)
        os.kill(worker.pid, signal.SIGSTOP)
    try:
        # Its statement got its lock; now the session waits for a process that never goes on.
        wait_until(lambda: world.one(IDLE) == 1, "a transaction that nobody ends")
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)
        assert finish(run) == ExitCode.DONE


def write_live(world: World) -> float:
    """Write a row that the slice writes, too, as the live side would; returns the seconds that it took."""
    table = world.wide_table(SHIPS[0], 1).as_string()
    with closing(live(world)) as conn:
        began = time.monotonic()
        with freeing(conn, lambda: live(world), LESSER_WRITER, PATIENCE_S):
            conn.execute(
                f"INSERT INTO {table} (created_time) VALUES (%s) ON CONFLICT DO NOTHING".encode(), [START]
            )
        return time.monotonic() - began


def test_a_stopped_backfill_is_ended_by_live_data_and_finishes_later(world: World) -> None:
    """Live waits as long as its patience, not for ever; the slice is done afterwards, with no failure counted."""
    world.fill(20)
    world.hand_off()
    with stopped_worker(world):
        assert PATIENCE_S <= write_live(world) < LOCK_TIMEOUT_S
        # The thread that ended the session gives its slice back a moment after our statement got the lock.
        wait_until(lambda: world.one("SELECT state FROM slice") == "waiting", "the slice given back")
        world.target.execute("UPDATE slice SET not_before = now()")
    assert world.wide_cells() == world.narrow_cells()
    assert world.one("SELECT max(failures) FROM slice") == 0


def test_live_data_ends_nobody_else(world: World) -> None:
    """A person's transaction in the way is none of a backfill's: live times out and tries again."""
    table = world.wide_table(SHIPS[0], 1).as_string()
    with closing(psycopg.connect(world.target_dsn)) as person:
        person.execute(f"INSERT INTO {table} (created_time) VALUES (%s)".encode(), [START])
        with closing(live(world)) as conn:
            conn.execute("SET lock_timeout = '2s'")
            with (
                pytest.raises(psycopg.errors.LockNotAvailable),
                freeing(conn, lambda: live(world), LESSER_WRITER, PATIENCE_S),
            ):
                conn.execute(f"INSERT INTO {table} (created_time) VALUES (%s)".encode(), [START])
        assert fetch_one(person, "SELECT 1") == (1,)
