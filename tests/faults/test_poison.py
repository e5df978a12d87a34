"""F20: values and messages that can't be stored, among hard ones that can; too many of them; a TRUNCATE."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest

from devstack.fleet import CALM
from tests.faults import oracle
from tests.faults.forger import Forger
from tests.faults.world import World, logged
from tests.waiting import wait_until
from widetable.errors import ExitCode

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

GOOD: Final[list[tuple[str, str, Any]]] = [
    *(("Decimal", "double_v", x) for x in ("NaN", "Infinity", "-Infinity", "-0", "5e-324", "1e16")),
    *(("Decimal", "double_v", x) for x in ("1.7976931348623157e308", "0.1", "100", "123456789.123456789")),
    *(("Integer", "long_v", x) for x in (-(2**63), 2**63 - 1, 0)),
    *(
        ("String", "str_v", x)
        for x in ("", " ", "a\tb\nc\r\nd", "\\", "\\N", "\\.", "back\\slash\\t", "''\"")
    ),
    *(("String", "str_v", x) for x in ("NULL", "{}", "🚢 ÄÖ", "x" * 3_000, "__debezium_unavailable_value")),
    ("Boolean", "bool_v", True),
    ("Boolean", "bool_v", False),
    ("NoSuchFormat", "long_v", 7),
]
HARD_IDS: Final = (
    "c" * 63,
    "d" * 64,
    "d" * 63 + "e",
    'quo"te',
    'x"; DROP TABLE tenant.tbl_data_timeseries;--',
    "per%cent %s {brace}",
    "created_time",
    "ctid",
    "_x",
)
INSERT: Final = (
    "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, server_created_time,"
    " value_format, {column}) VALUES (%s, %s, %s, now(), %s, %s)"
)
AMBIGUOUS: Final = (
    "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, server_created_time,"
    " value_format, long_v, str_v) VALUES (%s, %s, %s, now(), 'Decimal', 1, 'one')"
)
TOO_BIG: Final = (
    "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, server_created_time,"
    " value_format, str_v) SELECT %s, c, %s, now(), 'String', repeat('w', 23) FROM unnest(%s::text[]) c"
)
DEAD: Final = """
SELECT reason, count(*) FROM cdc.dead_cell
WHERE topic IS NOT NULL AND partition IS NOT NULL AND kafka_offset IS NOT NULL AND raw_value IS NOT NULL
GROUP BY reason
"""
ROW_TOO_BIG: Final = "SELECT count(*) FROM overflow_cell WHERE reason = 'row_too_big'"
DEAD_LIMIT: Final = 100
TRUNCATE_PASSED: Final = "SELECT count(*) FROM hand_off WHERE verify_required IS NOT NULL"


def moment(world: World, hours: int = 0) -> datetime:
    """A moment that no load writes."""
    return world.now + timedelta(days=40, hours=hours)


def insert(world: World, channel: str, at: datetime, sample: tuple[str, str, Any]) -> None:
    """A sample of every ship, through the real chain."""
    value_format, column, value = sample
    for ship in world.fleet.ships:
        world.source(INSERT.format(column=column), ship, channel, at, value_format, value)
    world.record.events += len(world.fleet.ships)


def write_good(world: World) -> None:
    """Hard values in known channels, and hard ids."""
    for number, sample in enumerate(GOOD):
        insert(world, world.fleet.channels[number], moment(world), sample)
    for channel in HARD_IDS:
        insert(world, channel, moment(world), ("String", "str_v", f"value of {channel}"))


def write_poison(world: World, forger: Forger) -> dict[str, int]:
    """Every kind of poison, each once; what the dead cells must count by reason."""
    ship, channels, at = forger.ship, iter(world.fleet.channels[-10:]), moment(world, 3)
    placeholder = _placeholder(world)
    world.source(AMBIGUOUS, ship, next(channels), at)
    world.source(INSERT.format(column="long_v"), ship, next(channels), "infinity", "Integer", 1)
    world.source(INSERT.format(column="str_v"), ship, next(channels), at, "String", placeholder)
    micros = int(at.replace(tzinfo=UTC).timestamp()) * 1_000_000
    text = {
        "created_time": micros,
        "value_format": "String",
        "double_v": None,
        "long_v": None,
        "bool_v": None,
    }
    forger.send(forger.insert(data_channel_id=next(channels), str_v="a\0b", **text), forger.garbage())
    forger.send(forger.unknown_schema())
    forger.send(forger.insert(data_channel_id=next(channels), created_time=micros), keyed=False)
    reasons = ("ambiguous", "infinity", "placeholder", "nul", "undecodable", "unknown_schema", "null_key")
    return dict.fromkeys(reasons, 1)


def _placeholder(world: World) -> str:
    with psycopg.connect(world.pipeline.target, autocommit=True) as conn:
        ((placeholder,),) = conn.execute("SELECT placeholder FROM cdc.hand_off").fetchall()
    return str(placeholder)


def dead(world: World) -> dict[str, int]:
    """Dead cells that have their coordinates and bytes, by reason."""
    with psycopg.connect(world.pipeline.target, autocommit=True) as conn:
        return dict(conn.execute(DEAD).fetchall())


@pytest.mark.fault("F20", "poison among hard values")
def test_poison_costs_its_own_cell_only(world: World) -> None:
    """Values at the edge of their types arrive to the letter beside messages and values that can't be stored."""
    world.hand_off()
    consumer = world.consume()
    with world.load(mix=CALM):
        world.flows()
        write_good(world)
        forger = Forger(world)
        expected = write_poison(world, forger)
        write_good_again(world)
        engine = world.fleet.channels[347:1002]
        world.source(TOO_BIG, world.fleet.ships[0], moment(world, 1), list(engine))
        world.record.events += len(engine)
        wait_until(lambda: dead(world) == expected, f"dead cells: {dead(world)}")
        world.fire(len(expected))
        wait_until(lambda: world.pipeline.target_value(ROW_TOO_BIG) > 0, "a row too big for a page overflows")
        world.fire()
    world.prove(consumer, dead=len(expected))
    assert dead(world) == expected


def write_good_again(world: World) -> None:
    """Behind the poison: the same values at another moment."""
    for number, sample in enumerate(GOOD):
        insert(world, world.fleet.channels[number], moment(world, 2), sample)


@pytest.mark.faults
@pytest.mark.fault("F20", "more bad records in a row than the limit")
def test_too_many_bad_records_stop_the_consumer_and_a_raised_limit_passes_them(world: World) -> None:
    """Exit 6 before anything of the bad run is diverted; with a raised limit it goes on, and loses nothing."""
    world.hand_off()
    consumer = world.consume()
    with world.load(mix=CALM):
        world.flows()
    world.at_rest()
    forger = Forger(world)
    forger.send(*(forger.garbage(number) for number in range(DEAD_LIMIT + 20)))
    assert consumer.child.wait(60) == ExitCode.STOPPED, logged(consumer)
    assert "records in a row are dead" in logged(consumer)
    assert "CDC_CONSUMER__DEAD_IN_A_ROW" in logged(consumer)
    assert world.pipeline.target_value("SELECT count(*) FROM dead_cell") < DEAD_LIMIT
    world.fire()
    raised = world.consume(environment={"CDC_CONSUMER__DEAD_IN_A_ROW": "1000"})
    with world.load(mix=CALM):
        world.arrives()
    world.prove(raised, dead=DEAD_LIMIT + 20)
    assert dead(world) == {"undecodable": DEAD_LIMIT + 20}


@pytest.mark.faults
@pytest.mark.parametrize("environment", [{"CDC_TOPIC__PARTITIONS": "1"}], ids=["one_partition"])
@pytest.mark.usefixtures("environment")
@pytest.mark.fault("F20", "TRUNCATE")
def test_a_truncate_stops_the_consumer_behind_all_that_came_before(world: World) -> None:
    """Exit 6, as often as it is started; what came before is there, and a person may pass the record."""
    world.hand_off()
    consumer = world.consume()
    with world.load():
        world.flows()
    before = oracle.source_cells(world.pipeline.source)
    world.source("TRUNCATE tenant.tbl_data_timeseries")
    for run in (consumer, world.consume()):
        assert run.child.wait(60) == ExitCode.STOPPED, logged(run)
        assert "the source table was truncated" in logged(run)
        world.fire()
    assert_holds(world, before)
    world.pipeline.succeed("cdc-consumer", "resume", "--after-truncate")
    assert world.pipeline.target_value(TRUNCATE_PASSED) == 1
    successor = world.consume()
    world.arrives()
    assert_holds(world, before | oracle.source_cells(world.pipeline.source))
    assert successor.terminate() == 0, logged(successor)


def assert_holds(world: World, expected: oracle.Cells) -> None:
    """The target has exactly these cells, dead ones excepted."""
    found = oracle.differences(expected, world.pipeline.target)
    world.record.differences = found.total
    assert found.total == 0, found
