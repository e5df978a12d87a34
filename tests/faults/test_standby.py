"""F11: a commit hangs between WAL and visibility while the slot is made and slices are read.

With a synchronous standby that does not answer, a transaction is in the WAL, yet no snapshot sees it: its locks and
its place among the running transactions go when the standby answers. When it came after the last transaction that
the slot's creation waits for, it is neither in the stream nor in a slice read now. The barrier is for this one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, LiteralString

import psycopg
import pytest

from cdc_consumer.init import init
from cdc_consumer.settings import load_settings
from devstack.postgres import Postgres
from devstack.product import Process
from devstack.service import free_port
from devstack.stack import Stack
from tests.faults import chain_log, oracle
from tests.faults.world import World, logged
from tests.waiting import wait_until
from widetable.postgres import Connection

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

HISTORY: Final = 8_000
STEP_S: Final = 60.0
# Only the one transaction waits for the standby: the others, and the connector, are free of it.
SETTINGS: Final = {"fsync": "off", "synchronous_commit": "local"}
LATE_ROW: Final = """
INSERT INTO tenant.tbl_data_timeseries
    (ship_id, data_channel_id, created_time, server_created_time, value_format, double_v)
VALUES (%s, %s, '2003-01-01', now(), 'Decimal', 42.5)
"""
WAITED_FOR: Final = (
    "SELECT count(*) FROM pg_locks"
    " WHERE locktype = 'transactionid' AND NOT granted AND transactionid = %s::xid"
)
HANGS: Final = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
SLOT_IS_MADE: Final = (
    "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL"
    " AND database = current_database()"
)
LATE_ROWS: Final = "SELECT count(*) FROM tenant.tbl_data_timeseries WHERE created_time = '2003-01-01'"
NO_BARRIER: Final = "UPDATE cdc.hand_off SET barrier_xid = '3'"
AT_THE_BARRIER: Final = "waiting for transactions older than the slot"


@pytest.fixture(scope="module")
def standby(chain: Stack, source_cluster: Postgres) -> Iterator[Postgres]:
    """The synchronous standby of this file's source."""
    copy = source_cluster.standby(chain.folder / "standby", free_port(), {"primary_slot_name": ""})
    copy.start()
    yield copy
    copy.resume()
    copy.wipe()


@pytest.fixture(scope="module")
def source_cluster(chain: Stack) -> Iterator[Postgres]:
    """A cluster of its own, for its commits depend on the standby."""
    cluster = Postgres(chain.folder / "primary", free_port(), SETTINGS)
    cluster.start()
    yield cluster
    cluster.wipe()


@pytest.fixture
def silent(source_cluster: Postgres, standby: Postgres) -> Iterator[Postgres]:
    """The standby, synchronous; the tests make it stop answering. Afterwards nothing waits for it."""
    set_synchronous(source_cluster, "*")
    yield standby
    standby.resume()
    set_synchronous(source_cluster, "")


def set_synchronous(cluster: Postgres, names: LiteralString) -> None:
    """Which standbys a commit waits for."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        conn.execute("SELECT pg_reload_conf()")
    wanted = int(bool(names))
    query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
    wait_until(lambda: number(cluster.dsn(), query) == wanted, f"{wanted} standbys are synchronous", STEP_S)


def number(dsn: str, query: LiteralString, *params: object) -> int:
    """A single number."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        (row,) = conn.execute(query, params).fetchall()
    return int(row[0])


def open_transaction(conn: Connection) -> str:
    """Begin one with a transaction id, which is returned as the lock table shows it."""
    (row,) = conn.execute("SELECT pg_current_xact_id()::xid::text").fetchall()
    return str(row[0])


@contextmanager
def commit_in_the_gap(world: World, standby: Postgres, start: Callable[[], None]) -> Iterator[int]:
    """Start the hand-off and bring a commit about that the new slot does not stream and no snapshot sees.

    The slot's creation waits twice for what runs: for the first blocker, then for the second one. What begins
    during the second wait is not waited for.

    Args:
        world: with its tables.
        standby: stops answering in between, and answers again at the end.
        start: begins the hand-off and does not wait for it.

    Yields:
        the process id of the session that hangs in its COMMIT.
    """
    dsn = world.pipeline.source
    with ExitStack() as sessions:
        first, second, late = (sessions.enter_context(psycopg.connect(dsn)) for _ in range(3))
        first_xid = open_transaction(first)
        start()
        wait_until(lambda: number(dsn, WAITED_FOR, first_xid), "the slot waits for the first one", STEP_S)
        second_xid = open_transaction(second)
        first.rollback()
        wait_until(lambda: number(dsn, WAITED_FOR, second_xid), "the slot waits for the second one", STEP_S)
        standby.pause()
        late.execute("SET synchronous_commit = on")
        late.execute(LATE_ROW, (world.fleet.ships[0], world.fleet.channels[0]))
        commit = threading.Thread(target=late.commit, daemon=True)
        commit.start()
        pid = late.info.backend_pid
        try:
            wait_until(lambda: number(dsn, HANGS, pid), "the commit hangs", STEP_S)
            second.rollback()
            wait_until(lambda: number(dsn, SLOT_IS_MADE), "the slot is made", STEP_S)
            yield pid
        finally:
            standby.resume()
            commit.join(STEP_S)
        assert number(dsn, LATE_ROWS) == 1


def prepared(world: World) -> None:
    """Tables and history: everything before the hand-off."""
    world.history(HISTORY)
    world.pipeline.succeed("cdc-consumer", "schema", "apply")


@pytest.mark.fault("F11", "init waits for a commit that hangs")
def test_a_commit_that_hangs_is_waited_for_and_not_lost(world: World, silent: Postgres) -> None:
    """Init stands at the barrier until the standby answers; then history has the row."""
    prepared(world)
    begun: list[Process] = []
    start = lambda: begun.append(world.pipeline.product.start("cdc-consumer", "init"))  # noqa: E731 - one step
    with commit_in_the_gap(world, silent, start) as pid:
        (process,) = begun
        wait_until(lambda: AT_THE_BARRIER in process.log.read_text(), "init is at the barrier", STEP_S)
        assert number(world.pipeline.source, HANGS, pid) == 1
        assert number(world.pipeline.source, LATE_ROWS) == 0
        assert process.running, logged(process)
        assert world.pipeline.target_value("SELECT count(*) FROM hand_off") == 0
        world.fire()
    assert process.child.wait(STEP_S) == 0, logged(process)
    chain_log.install(world.pipeline.target)
    consumer = world.consume()
    with world.load():
        world.flows()
        world.pipeline.succeed("backfill", "run")
    world.prove(consumer)


@pytest.mark.fault("F11", "init gives up and names the commit that hangs")
def test_init_names_the_commit_that_it_waits_for(world: World, silent: Postgres) -> None:
    """It leaves no slot behind, and begins anew when it is run again."""
    prepared(world)
    begun: list[Process] = []
    start = lambda: begun.append(  # noqa: E731 - one step
        world.pipeline.product.start("cdc-consumer", "init", "--timeout", "8")
    )
    with commit_in_the_gap(world, silent, start) as pid:
        (process,) = begun
        assert process.child.wait(STEP_S) == 4, logged(process)
        told = process.log.read_text()
        assert "the barrier" in told
        assert f"pid {pid} " in told
        assert number(world.pipeline.source, "SELECT count(*) FROM pg_replication_slots") == 0
        world.fire()
    world.hand_off()
    consumer = world.consume()
    world.pipeline.succeed("backfill", "run")
    with world.load():
        world.flows()
    world.prove(consumer)


@pytest.mark.fault("F11", "init does not wait at the barrier", control=True)
def test_without_the_barrier_the_row_is_lost(
    world: World, silent: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a slice that is read before the standby answers misses it, and the stream never had it."""
    prepared(world)
    for name, value in world.pipeline.product.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("cdc_consumer.init.barrier_passed", lambda *_: True)
    settings = load_settings()
    hand_off = threading.Thread(target=lambda: init(settings, wait_s=STEP_S, report=lambda _: None))
    with commit_in_the_gap(world, silent, hand_off.start):
        hand_off.join(STEP_S)
        world.target(NO_BARRIER)
        world.pipeline.succeed("backfill", "run")
        assert number(world.pipeline.source, LATE_ROWS) == 0
        world.fire()
    consumer = world.consume()
    world.arrives()
    world.at_rest()
    differences = oracle.compare(world.pipeline.source, world.pipeline.target)
    world.record.differences = differences.total
    assert consumer.terminate() == 0, logged(consumer)
    assert (differences.missing, differences.total) == (1, 1), differences
