"""F12, F16: backfill and live write the same cells, in every order and under pressure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Final

import psycopg
import pytest

from devstack.fleet import HistoryReport, Mix
from devstack.product import Process
from tests.faults import oracle
from tests.faults.cell_lives import Life, Statement, all_lives, births, changes_at
from tests.faults.gates import Gate
from tests.faults.world import World, logged
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.faults]

BEFORE, BETWEEN, IN_WRITE, AFTER = range(4)
PATIENT: Final = {"CDC_TARGET__LOCK_TIMEOUT_MS": "90000", "CDC_BACKFILL__WORKERS": "1"}
"""For a slice that is held longer than any lock should be."""

# A slice is read between its claim, which is a transaction of its own, and the lock that its data begins with.
TAKE_SLICE: Final = """
DO $$ BEGIN
    LOOP
        PERFORM FROM cdc.slice WHERE state = 'running' FOR UPDATE SKIP LOCKED;
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.0005);
    END LOOP;
END $$
"""
WAITS_FOR: Final = "SELECT count(*) FROM pg_stat_activity WHERE {pid} = ANY (pg_blocking_pids(pid))"
NO_VERSION: Final = "NULL"
NO_TOMBSTONE: Final = "(SELECT jsonb_object_agg(key, value) FROM jsonb_each(NEW._x) WHERE value ->> 2 <> 'd')"
KEEP_ONLY: Final = """
CREATE SCHEMA IF NOT EXISTS fault;
CREATE FUNCTION fault.strip() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW._x := %(kept)s; RETURN NEW; END $$;
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT table_name FROM information_schema.tables WHERE table_schema = 'tenant' LOOP
        EXECUTE 'CREATE TRIGGER strip BEFORE INSERT OR UPDATE ON tenant.' || quote_ident(name)
            || ' FOR EACH ROW EXECUTE FUNCTION fault.strip()';
    END LOOP;
END $$;
"""
LIVE_BEHIND_BACKFILL: Final = """
SELECT count(*) FROM pg_stat_activity live, unnest(pg_blocking_pids(live.pid)) blocker
JOIN pg_stat_activity history ON history.pid = blocker
WHERE live.application_name LIKE 'cdc-consumer%' AND history.application_name LIKE 'backfill%'
"""
HEAVY: Final = Mix(
    updates=600,
    null_updates=40,
    deletes=300,
    reinserts=200,
    late=60,
    moves=20,
    unknown_channels=0,
    unknown_ship=0,
)
HOLDS: Final = 4
SLOWLY: Final = 3_000
"""Rows per second: the copy is to last until it was held several times."""
LIVE_LATENCY_S: Final = 30.0


def change(world: World, statements: Iterator[Statement]) -> None:
    """Each a transaction of its own."""
    with psycopg.connect(world.pipeline.source, autocommit=True) as conn:
        for statement, values in statements:
            conn.execute(statement.encode(), values)


@contextmanager
def held_between_read_and_write(world: World) -> Iterator[None]:
    """The slice that is claimed next has been read, and can't be written until this ends."""
    with psycopg.connect(world.pipeline.target) as conn:
        conn.execute("SET statement_timeout = '60s'")
        conn.execute(TAKE_SLICE)
        waits = WAITS_FOR.format(pid=conn.info.backend_pid)
        wait_until(lambda: world.pipeline.target_value(waits), "the slice is read and wants to be written")
        yield
        conn.rollback()


def second_table(world: World) -> AbstractContextManager[Gate]:
    """Holds a slice when the first table is written and the others are not."""
    return world.gate("in write", "backfill%", wide_table=1)


def copy_beside(world: World, lives: list[Life], live_begins: int) -> Process:
    """One slice over all lives, with the live side at work from a stage on; it is up to date at each later one."""
    consumer: list[Process] = []

    def stage(number: int) -> None:
        change(world, changes_at(lives, number))
        if number == live_begins:
            consumer.append(world.consume())
        if consumer and number != IN_WRITE:  # there it may have to wait for the slice's locks
            world.at_rest()

    moments = [life.at for life in lives]
    stage(BEFORE)
    span = (
        "--from",
        min(moments).isoformat(),
        "--cutoff-time",
        (max(moments) + timedelta(seconds=1)).isoformat(),
    )
    backfill = world.pipeline.product.start("backfill", "run", *span, environment=PATIENT)
    with ExitStack() as ending:
        with held_between_read_and_write(world):
            stage(BETWEEN)
            gate = ending.enter_context(second_table(world))
        gate.catch()
        stage(IN_WRITE)
    assert backfill.child.wait(60) == 0, logged(backfill)
    world.fire(len(lives))
    stage(AFTER)
    return consumer[0]


def lives_of(world: World, hours_ago: int) -> list[Life]:
    """All lives, on channels of all tables."""
    channels = world.random.sample(world.fleet.channels, len(world.fleet.channels))
    return all_lives(world.fleet.ships, channels, world.now - timedelta(hours=hours_ago))


@pytest.mark.fault("F12", "all orders of slice read, slice write and live changes")
def test_no_order_of_slice_and_live_changes_ends_wrong(world: World) -> None:
    """Live applies at once, or late (after the read, after the write): each cell ends as the source has it."""
    rounds = {begins: lives_of(world, 10 + begins) for begins in (BEFORE, BETWEEN, AFTER)}
    for lives in rounds.values():
        change(world, births(lives))
    world.hand_off()
    consumers = []
    for begins, lives in rounds.items():
        consumers.append(copy_beside(world, lives, begins))
        world.at_rest()
        if begins != AFTER:
            assert consumers[-1].terminate() == 0, logged(consumers[-1])
        world.record.events += sum(len(life.changes) for life in lives)
    world.prove(consumers[-1])


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(
            NO_VERSION,
            id="no version",
            marks=pytest.mark.fault("F12", "all orders, versions not kept in the row", control=True),
        ),
        pytest.param(
            NO_TOMBSTONE,
            id="no tombstone",
            marks=pytest.mark.fault("F12", "all orders, deletes leave no version", control=True),
        ),
    ],
)
def test_without_versions_a_slice_resurrects_deleted_cells(world: World, kept: str) -> None:
    """The control: a delete that leaves nothing behind is undone by a slice that was read before it."""
    lives = lives_of(world, 10)
    change(world, births(lives))
    world.hand_off()
    world.target(KEEP_ONLY.replace("%(kept)s", kept))
    copy_beside(world, lives, BEFORE)
    world.arrives()
    world.at_rest()
    found = oracle.compare(world.pipeline.source, world.pipeline.target)
    world.record.differences = found.total
    assert found.phantom > 0, found


def copied(backfill: Process) -> bool:
    """Whether the backfill has ended, and ended well."""
    assert backfill.running or backfill.child.returncode == 0, logged(backfill)
    return not backfill.running


def hold_before_live(world: World, backfill: Process) -> bool:
    """A slice holds rows that live wants, and lets them go when live waits; False once there is no slice left."""
    with second_table(world) as gate:
        wait_until(lambda: gate.caught() or copied(backfill), "a slice comes to the gate", 60.0)
        if not gate.caught():
            return False
        wait_until(lambda: world.pipeline.target_value(LIVE_BEHIND_BACKFILL), "live waits for the slice", 9.0)
        world.fire()
        gate.open()
        return True


@pytest.mark.fault("F16", "live and backfill write the same rows")
def test_live_is_not_starved_by_backfill_on_the_same_rows(world: World) -> None:
    """Each waits for the other's rows; slices end within their attempts, and live keeps its latency."""
    history: HistoryReport = world.history(40_000)
    world.hand_off()
    consumer = world.consume()
    small = {"CDC_BACKFILL__SLICE_ROWS": "1000", "CDC_BACKFILL__WORKERS": "3"}
    with world.load(rows_per_second=600, history=history, mix=HEAVY):
        world.flows()
        backfill = world.pipeline.product.start(
            "backfill", "run", "--rate-limit", str(SLOWLY), environment=small
        )
        while world.record.fired < HOLDS and hold_before_live(world, backfill):
            world.recovered(LIVE_LATENCY_S)
        wait_until(lambda: copied(backfill), "the backfill ends", 120.0)
    assert world.record.fired > 1, "the copy was over too soon"
    assert world.pipeline.target_value("SELECT max(attempt) FROM slice") < 8
    world.prove(consumer)
