"""F24: the narrow table gets, loses and renames columns, and samples change their key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import psycopg
import pytest

from devstack.fleet import CALM, Mix
from tests.faults import oracle
from tests.faults.world import World, logged
from widetable.errors import ExitCode

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

MOVING: Final = Mix(moves=40)
SAMPLES: Final = 50
STRANGER: Final = "/moved/to////nowhere"
INSERT: Final = (
    "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, long_v)"
    " VALUES (%s, %s, %s, 'Integer', %s)"
)
OURS: Final = "created_time >= %(start)s AND created_time < %(start)s::timestamp + interval '50 s'"
MOVES: Final = {
    "ship": f"UPDATE tenant.tbl_data_timeseries SET ship_id = %(stranger)s WHERE ship_id = %(ship)s AND {OURS}",
    "channel": "UPDATE tenant.tbl_data_timeseries SET data_channel_id = %(elsewhere)s"
    f" WHERE data_channel_id = %(channel)s AND {OURS}",
    "time": "UPDATE tenant.tbl_data_timeseries SET created_time = created_time + interval '1 day'"
    f" WHERE data_channel_id = %(channel2)s AND {OURS}",
}
# Each steps where the one before it has just been.
STEP: Final = (
    "UPDATE tenant.tbl_data_timeseries SET created_time = created_time + interval '1 s'"
    " WHERE data_channel_id = %(channel3)s AND created_time = %(start)s::timestamp + %(number)s * interval '1 s'"
)
SEND: Final = """
INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, long_v)
SELECT s, c, %(start)s::timestamp + n * interval '1 s', 'Integer', n
FROM unnest(%(ships)s::text[]) s, unnest(%(channels)s::text[]) c, generate_series(0, 49) n
"""


def send(world: World, number: int) -> None:
    """A sample per ship that needs no column but those that every sample needs."""
    for ship in world.fleet.ships:
        world.source(
            INSERT, ship, world.fleet.channels[1], world.now + timedelta(days=9, seconds=number), number
        )
    world.record.events += len(world.fleet.ships)


@pytest.mark.fault("F24", "column added, and one that is not needed dropped")
def test_a_column_that_nobody_needs_may_come_and_go(world: World) -> None:
    """Under load, with a new schema in the registry each time."""
    world.hand_off()
    consumer = world.consume()
    with world.load(rows_per_second=1_500):
        world.flows()
        for change in (
            "ADD COLUMN quality int",
            "ADD COLUMN note text NOT NULL DEFAULT 'good'",
            "ADD COLUMN raw bytea DEFAULT '\\x00'",
            "DROP COLUMN quality",
            "DROP COLUMN id",
        ):
            world.source(f"ALTER TABLE tenant.tbl_data_timeseries {change}")
            world.fire()
            world.recovered()
    world.prove(consumer)


@pytest.mark.parametrize(
    ("change", "column"),
    [
        pytest.param(
            "DROP COLUMN bool_v",
            "bool_v",
            id="dropped",
            marks=pytest.mark.fault("F24", "needed column dropped"),
        ),
        pytest.param(
            "RENAME COLUMN str_v TO text_v",
            "str_v",
            id="renamed",
            marks=pytest.mark.fault("F24", "needed column renamed"),
        ),
    ],
)
def test_a_needed_column_that_is_gone_stops_the_consumer(world: World, change: str, column: str) -> None:
    """Exit 3 names the column; what came before is there, and nothing is misplaced."""
    world.hand_off()
    consumer = world.consume()
    with world.load(mix=CALM):
        world.flows()
    world.at_rest()
    before = oracle.source_cells(world.pipeline.source)
    world.source(f"ALTER TABLE tenant.tbl_data_timeseries {change}")
    send(world, 1)
    assert consumer.child.wait(60) == ExitCode.CONFIGURATION, logged(consumer)
    assert f"has no column {column}. Was it renamed or dropped on the source" in logged(consumer)
    world.fire()
    found = oracle.differences(before, world.pipeline.target)
    world.record.differences = found.total
    assert found.total == 0, found


@pytest.mark.fault("F24", "primary key updated: ship, channel, time, each alone")
def test_samples_that_change_their_key_leave_no_trace_at_the_old_one(world: World) -> None:
    """Each is gone from its old cell and stands in its new one, under load that moves samples as well."""
    world.hand_off()
    consumer = world.consume()
    channels = [world.fleet.channels[number] for number in (1, 400, 1_010)]
    keys: dict[str, Any] = {
        "ship": world.fleet.ships[0],
        "stranger": "IMO0000001",
        "channel": channels[0],
        "elsewhere": STRANGER,
        "channel2": channels[1],
        "channel3": channels[2],
        "start": world.now + timedelta(days=20),
    }
    with psycopg.connect(world.pipeline.source) as conn:
        conn.execute(SEND, keys | {"ships": list(world.fleet.ships), "channels": channels})
    with world.load(mix=MOVING):
        world.flows()
        for move in MOVES.values():
            change_keys(world, [move], keys)
        change_keys(world, [STEP] * SAMPLES, keys)
        world.recovered()
    world.prove(consumer)


def change_keys(world: World, statements: list[str], keys: dict[str, Any]) -> None:
    """One transaction; the statements count down."""
    last = len(statements) - 1
    with psycopg.connect(world.pipeline.source) as conn:
        moved = sum(
            conn.execute(statement.encode(), keys | {"number": last - turn}).rowcount
            for turn, statement in enumerate(statements)
        )
    assert moved >= SAMPLES, statements[0]
    world.record.events += moved
    world.fire()
