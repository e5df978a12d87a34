"""F17: new columns while a reader holds the tables."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import psycopg
import pytest
from psycopg import sql

from devstack.fleet import CALM
from devstack.product import Process
from tests.faults.world import World
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

CHANNEL: Final = "/nobody/has/seen////me"
KNOWN_CHANNEL_LATENCY_S: Final = 15.0
BEACONS: Final = 5
STATE: Final = f"SELECT count(*) FROM channel WHERE channel_id = '{CHANNEL}' AND state = "
ALTER_WAITS: Final = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
OVERFLOW: Final = f"SELECT count(*) FROM overflow_cell WHERE channel_id = '{CHANNEL}'"
INSERT: Final = (
    "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, server_created_time,"
    " value_format, str_v) VALUES (%s, %s, %s, now(), 'String', %s)"
)


def send_stranger(world: World, number: int) -> None:
    """A sample per ship of a channel that nobody has seen."""
    for ship in world.fleet.ships:
        world.source(INSERT, ship, CHANNEL, world.now + timedelta(seconds=number), f"stranger {number}")
        world.record.events += 1


def long_select(world: World, conn: psycopg.Connection) -> None:
    """Read every wide table in a transaction that stays open."""
    for table in world.wide_tables():
        conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table)))


@pytest.mark.fault("F17", "ADD COLUMN while a long SELECT holds the tables")
def test_a_long_select_delays_the_new_column_and_nothing_else(world: World) -> None:
    """Known channels keep arriving; the new one's cells wait in overflow until the reader ends."""
    world.hand_off(ships_known=True)
    consumer: Process = world.consume()
    with world.load(rows_per_second=1_500, mix=CALM):
        world.flows()
        with psycopg.connect(world.pipeline.target) as reader:
            long_select(world, reader)
            send_stranger(world, 0)
            wait_until(
                lambda: world.pipeline.target_value(ALTER_WAITS), "ADD COLUMN waits for the reader", 60.0
            )
            world.fire()
            for number in range(1, BEACONS + 1):
                send_stranger(world, number)
                world.recovered(KNOWN_CHANNEL_LATENCY_S)
            cells = len(world.fleet.ships) * (BEACONS + 1)
            wait_until(
                lambda: world.pipeline.target_value(OVERFLOW) == cells, "the stranger's cells overflow"
            )
            assert world.pipeline.target_value(STATE + "'pending'") == 1
        wait_until(lambda: world.pipeline.target_value(STATE + "'live'") == 1, "the channel is live", 60.0)
        wait_until(lambda: world.pipeline.target_value(OVERFLOW) == 0, "its overflow is replayed")
        world.recovered()
    world.prove(consumer)
