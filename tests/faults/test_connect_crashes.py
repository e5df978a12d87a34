"""F6, F7: Connect is killed in the middle of a transaction, and restarted between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx
import psycopg
import pytest

from tests.faults.world import World
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.faults]

BURSTS: Final = 6
MOMENTS: Final = 4
KILLS: Final = 2
RESTARTS: Final = 6
CHANNELS: Final = 200
EVERYTHING: Final = 1 << 30
SENT_S: Final = 90.0
# A burst as an application writes it: all channels, some moments; then it changes a part of it.
INSERT: Final = """
INSERT INTO tenant.tbl_data_timeseries
    (ship_id, data_channel_id, created_time, server_created_time, value_format, double_v)
SELECT ship, channel, timestamp '2002-01-01' + make_interval(secs => 15 * moment), now(), 'Decimal', moment + 0.25
FROM unnest(%(ships)s::text[]) ship, unnest(%(channels)s::text[]) channel,
     generate_series(%(first)s, %(first)s + %(moments)s - 1) moment
"""
UPDATE: Final = """
UPDATE tenant.tbl_data_timeseries SET double_v = double_v + 1000
WHERE created_time = timestamp '2002-01-01' + make_interval(secs => 15 * %(first)s) AND ship_id = ANY (%(ships)s)
"""
READER: Final = "SELECT active_pid FROM pg_replication_slots WHERE database = current_database()"


def sent(world: World) -> int:
    """Events in the topic."""
    return sum(world.end_offsets().values())


def wait_sent(world: World, goal: int) -> None:
    """Wait until the topic has so many events."""
    wait_until(lambda: sent(world) >= goal, f"{goal:,} events are in the topic", SENT_S)


def burst(world: World, number: int, channels: int) -> dict[str, object]:
    """What a burst is made of: all ships, some channels, moments of its own."""
    names = list(world.fleet.channels[:channels])
    return {
        "ships": list(world.fleet.ships),
        "channels": names,
        "first": MOMENTS * number,
        "moments": MOMENTS,
    }


def killed_while_sending(world: World, events: int, write: Callable[[], object]) -> None:
    """The source commits that many events at once; Connect is killed again and again before all are sent."""
    goal, hits = sent(world) + events, 0
    write()
    while hits < KILLS and (now := sent(world)) < goal:
        wait_sent(world, now + 1)
        world.stack.connect.kill()
        hits += sent(world) < goal
        world.stack.connect.start()
    assert hits, "all was sent before Connect was killed"
    world.fire(hits)
    wait_sent(world, goal)


@pytest.mark.fault("F6", "kill -9 Connect during a large transaction")
def test_a_kill_in_a_large_transaction_loses_nothing(world: World) -> None:
    """It is killed while the transaction is open, and again while its changes are sent."""
    world.hand_off(ships_known=True)
    consumer = world.consume()
    with psycopg.connect(world.pipeline.source) as large:
        events = 0
        with world.load():
            world.flows()
            for number in range(BURSTS):
                parts = burst(world, number, len(world.fleet.channels))
                events += large.execute(INSERT, parts).rowcount
                events += large.execute(UPDATE, parts).rowcount
                if number == BURSTS // 2:
                    world.stack.connect.kill()
                    world.fire()
            world.stack.connect.start()
            world.recovered()
        world.at_rest()
        killed_while_sending(world, events, large.commit)
    world.record.events += events
    world.prove(consumer)


@pytest.mark.fault("F6", "kill -9 Connect during a multi-row COPY")
def test_a_kill_in_a_copy_loses_nothing(world: World) -> None:
    """The rows of one COPY share their positions in the WAL: none may pass for already sent."""
    rows = 50_000
    world.hand_off(ships_known=True)
    consumer = world.consume()
    world.arrives()
    killed_while_sending(world, rows, lambda: world.history(rows))
    world.record.events += rows
    with world.load():
        world.flows()
    world.prove(consumer)


def restart_task(world: World) -> None:
    """The connector stops and starts within its worker."""
    name = world.pipeline.product.environment["CDC_PIPELINE__NAME"]
    url = f"{world.stack.connect.url}/connectors/{name}/restart?includeTasks=true"
    httpx.post(url, timeout=30).raise_for_status()


def restart_worker(world: World) -> None:
    """The whole worker stops in an orderly way, and starts."""
    world.stack.connect.stop()
    world.stack.connect.launch()


def slot_reader(world: World) -> int | None:
    """The source's session that reads the slot, if any."""
    with psycopg.connect(world.pipeline.source, autocommit=True) as conn:
        row = conn.execute(READER).fetchone()
    return None if row is None else row[0]


def restarted_between_two(world: World, number: int, restart: Callable[[World], None], seen: int) -> int:
    """Commit, see so many events of it in the topic, restart, commit again; returns the events of both."""
    before, reader = sent(world), slot_reader(world)
    with psycopg.connect(world.pipeline.source, autocommit=True) as conn:
        events = conn.execute(INSERT, burst(world, 2 * number, CHANNELS)).rowcount
        wait_sent(world, before + min(seen, events))
        restart(world)
        events += conn.execute(INSERT, burst(world, 2 * number + 1, CHANNELS)).rowcount
    wait_until(lambda: slot_reader(world) not in {None, reader}, "Connect reads the slot again", SENT_S)
    return events


@pytest.mark.fault("F7", "restart Connect between two transactions")
def test_a_restart_between_two_transactions_loses_neither(world: World) -> None:
    """The first is sent, or half sent, or not sent at all when Connect stops and the second one commits."""
    world.hand_off(ships_known=True)
    consumer = world.consume()
    world.arrives()
    for number in range(RESTARTS):
        restart = restart_worker if number % 3 == 2 else restart_task
        seen = world.random.choice([0, 1, EVERYTHING])
        world.record.events += restarted_between_two(world, number, restart, seen)
        world.fire()
        world.stack.connect.wait_healthy()
    world.recovered()
    with world.load():
        world.flows()
    world.prove(consumer)
