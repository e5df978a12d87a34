"""Every command with the four roles of `deploy/roles.sql`, hostile ids included; and what no role may do."""

from __future__ import annotations

import re
import struct
from dataclasses import replace

import psycopg
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from devstack.product import Process, Product
from tests.roles_world import World, number
from tests.waiting import wait_until
from widetable.errors import ExitCode

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
pytest_plugins = ["tests.roles_fixture"]

HOSTILE = (
    "'; DROP TABLE tenant.victim;--",
    '"; DROP TABLE tenant.victim;--',
    "%s %(x)s %%",
    "{} {0}",
    "back\\slash \\N \\.",
    "tab\tline\nreturn\r",
    "Schiff-Ünïcode-船",
    "a" * 63,
    "b" * 64,
    "ü" * 32,
    "ctid",
    "xmin",
    "created_time",
    "_x",
    "",
)
"""Ids of channels, and of ships: at most harmful where they reach SQL as text."""
FIT_TABLES = tuple(ship_id for ship_id in HOSTILE if 0 < len(ship_id.encode()) <= 40)
"""As ships, the others can't name a table: their cells stay in overflow, and verify finds them there."""
TABLES = (
    "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
)
NEW_CHANNEL = "SELECT count(*) FROM channel WHERE channel_id = 'new/channel' AND state = 'live'"
LIVE_SHIPS = "SELECT count(*) FROM ship WHERE state = 'live'"
STRANDED = "SELECT count(*) FROM overflow_cell"
DEAD = "SELECT count(*) FROM dead_cell"
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s"


def tables(dsn: str) -> set[tuple[str, str]]:
    """Every table of a database."""
    with psycopg.connect(dsn) as conn:
        return {(schema, name) for schema, name in conn.execute(TABLES.encode())}


def test_the_main_job_needs_no_more_than_the_four_roles(world: World) -> None:
    """Schema, hand-off, stream, history, newcomers and verify, with hostile ids, and nothing else has changed."""
    with psycopg.connect(world.source, autocommit=True) as conn:
        conn.execute("CREATE TABLE tenant.victim ()")
    world.insert(("SHIP1",), ("a/b", *HOSTILE), moment=0)
    world.insert(FIT_TABLES, ("a/b",), moment=0)
    before = tables(world.source)
    world.succeed("cdc-consumer", "schema", "apply", "--ship-id", "SHIP1")
    made = tables(world.target)
    assert world.succeed("cdc-consumer", "init").count("created publication") == 0
    run = world.consumer.start("cdc-consumer", "run")
    world.insert(("SHIP1",), ("a/b", "new/channel", *HOSTILE), moment=1)
    world.insert(HOSTILE, ("a/b",), moment=1)
    world.insert(("SHIP2",), ("a/b",), moment=1)
    wait_until(lambda: number(world.target, NEW_CHANNEL), "the new channel is live", 60)
    wait_until(lambda: number(world.target, LIVE_SHIPS) == len(FIT_TABLES) + 2, "new ships are live", 60)
    world.succeed("backfill", "run")
    world.succeed("backfill", "verify", "--settle-timeout", "100")
    world.succeed("cdc-consumer", "status")
    world.succeed("cdc-consumer", "check")
    assert run.running, run.log.read_text()[-3000:]
    assert run.terminate() == 0
    assert number(world.target, "SELECT count(*) FROM dead_cell") == 0
    assert number(world.target, STRANDED) == len(HOSTILE) - len(FIT_TABLES)
    assert tables(world.source) == before
    grown = tables(world.target) - made
    assert {schema for schema, _ in grown} <= {"tenant"}
    assert all(name.startswith("tbl_data_timeseries_") for _, name in grown)
    logged = run.log.read_text()
    assert not [password for password in world.roles.passwords if password in logged]


def test_every_other_command_needs_no_more_than_the_four_roles(world: World) -> None:
    """What mends, moves and ends a pipeline, each with its effect, and no cell differs at the end."""
    world.insert(("SHIP1", "SHIP2"), ("a/b",), moment=0)
    world.succeed("cdc-consumer", "schema", "apply")
    world.succeed("cdc-consumer", "init")
    run = world.consumer.start("cdc-consumer", "run")
    world.succeed("cdc-consumer", "snapshot")
    wait_until(world.as_sent, "history came through Kafka", 60)
    repairs_cells(world)
    replays_a_dead_record(world)
    copies_and_corrects(world)
    again = begins_anew_after_a_truncate(world, run)
    adds_partitions(world)
    world.succeed("backfill", "verify", "--settle-timeout", "100")
    assert again.terminate() == 0, again.log.read_text()[-3000:]
    gives_the_stream_up(world)


def repairs_cells(world: World) -> None:
    """Once, and beside the stream; each cell once, since a repair outranks no other of its epoch."""
    world.spoil_cell(1)
    world.succeed("backfill", "verify", "--repair", "--no-settle")
    assert world.as_sent()
    world.spoil_cell(2)
    follower = world.backfill.start("backfill", "verify", "--follow", "--repair", "--no-settle")
    wait_until(world.as_sent, "the follower repairs", 60)
    assert follower.terminate() == 0, follower.log.read_text()


def replays_a_dead_record(world: World) -> None:
    """A record whose schema nobody knows is dead; with its real number it is applied."""
    message = record_of(world, b"SHIP1")
    value = message.value() or b""
    producer = Producer({"bootstrap.servers": world.consumer.environment["CDC_KAFKA__BOOTSTRAP_SERVERS"]})
    unknown = struct.pack(">bI", 0, 2_000_000_000) + value[5:]
    producer.produce(message.topic() or "", unknown, message.key(), message.partition() or 0)
    assert producer.flush(30) == 0
    wait_until(lambda: number(world.target, DEAD) == 1, "the record is dead", 60)
    assert "unknown_schema" in world.succeed("cdc-consumer", "dead-letters", "list")
    with psycopg.connect(world.target, autocommit=True) as conn:
        conn.execute("UPDATE cdc.dead_cell SET raw_value = %s", [value])
    world.lose_row(1)
    world.succeed("cdc-consumer", "dead-letters", "replay", "--all")
    assert world.as_sent()
    assert number(world.target, DEAD) == 0


def record_of(world: World, ship: bytes) -> Message:
    """The first record of a ship in the change topic."""
    with psycopg.connect(world.target) as conn:
        ((topic,),) = conn.execute("SELECT topic FROM cdc.hand_off").fetchall()
    brokers = world.consumer.environment["CDC_KAFKA__BOOTSTRAP_SERVERS"]
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "reader"})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(4)])
    try:
        while (message := consumer.poll(30)) is not None:
            if ship in (message.value() or b""):
                return message
    finally:
        consumer.close()
    raise AssertionError("the topic holds no such record")


def copies_and_corrects(world: World) -> None:
    """Ranges and slices again, indexes with the role that owns the tables, out to a file and in from it."""
    ranges = world.folder / "failed.csv"
    ranges.write_text("ship,start,end\nSHIP2,,\n")
    world.lose_row(2)
    world.succeed("backfill", "retry", str(ranges))
    assert world.as_sent()
    refused = world.backfill.run("backfill", "run", "--brin", quiet=True)
    assert refused.returncode == ExitCode.CONFIGURATION
    assert "set CDC_TARGET__DDL_DSN" in refused.stderr
    owner = Product({**world.backfill.environment, "CDC_TARGET__DDL_DSN": world.roles.ddl}, world.folder)
    replace(world, backfill=owner).succeed("backfill", "run", "--defer-indexes", "--brin")
    assert number(world.target, "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%USING brin%'")
    file = world.folder / "SHIP1.csv"
    period = ("--from", "2026-01-01", "--to", "2026-01-02")
    world.succeed("backfill", "export", "--ship-id", "SHIP1", *period, "--output", str(file))
    header, row = file.read_text().splitlines()
    file.write_text(f"{header}\n{row.replace('a/b', 'corrected')}\n")
    world.succeed("backfill", "import", str(file))
    assert (world.first_cell(1), world.first_cell(2)) == ("corrected", "a/b")
    assert re.search(r"corrected +1 ", world.succeed("backfill", "verify", "--no-settle"))


def adds_partitions(world: World) -> None:
    """The consumer that runs goes on with them."""
    world.succeed("cdc-consumer", "repartition", "--partitions", "6")
    assert number(world.target, "SELECT count(*) FROM offset_ledger") == 6


def begins_anew_after_a_truncate(world: World, run: Process) -> Process:
    """The record is passed, a new epoch begins, and a repair makes the target what the source is."""
    with psycopg.connect(world.source, autocommit=True) as conn:
        conn.execute("TRUNCATE tenant.tbl_data_timeseries")
    assert run.child.wait(60) == ExitCode.STOPPED, run.log.read_text()[-3000:]
    world.succeed("cdc-consumer", "resume", "--after-truncate")
    world.succeed("cdc-consumer", "reinit", "--force", "--yes")
    assert number(world.target, "SELECT max(epoch) FROM hand_off") == 2
    again = world.consumer.start("cdc-consumer", "run")
    world.insert(("SHIP1", "SHIP2"), ("a/b",), moment=-1)  # else what is older would not be compared
    world.succeed("backfill", "verify", "--repair", "--no-settle")
    assert (world.first_cell(1), world.first_cell(2)) == ("corrected", None)
    return again


def gives_the_stream_up(world: World) -> None:
    """Connector and slot are gone; what the roles don't own stays."""
    said = world.succeed("cdc-consumer", "teardown", "--yes")
    assert said.count("removed connector") == 1
    name = world.consumer.environment["CDC_PIPELINE__NAME"]
    with psycopg.connect(world.source) as conn:
        assert conn.execute(SLOTS, [name]).fetchone() == (0,)
    assert f"left publication {name}, which belongs to another role" in said


FORBIDDEN = (
    ("writer", "CREATE TABLE tenant.mine ()"),
    ("writer", "CREATE TABLE cdc.mine ()"),
    ("writer", "DROP TABLE cdc.offset_ledger"),
    ("writer", "ALTER TABLE cdc.offset_ledger ADD COLUMN mine int"),
    ("writer", "TRUNCATE cdc.offset_ledger"),
    (
        "history",
        (
            "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time)"
            " VALUES ('a', 'b', now())"
        ),
    ),
    ("history", "DELETE FROM tenant.tbl_data_timeseries"),
    ("history", "DELETE FROM cdc.heartbeat"),
    ("history", "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')"),
    ("debezium", "SELECT * FROM tenant.other"),
    ("debezium", "UPDATE tenant.tbl_data_timeseries SET long_v = 1"),
    ("debezium", "DELETE FROM cdc.heartbeat"),
    ("history", "SELECT * FROM tenant.other"),
)


@pytest.mark.parametrize(("role", "statement"), FORBIDDEN)
def test_a_role_may_not_do_more_than_its_work(world: World, role: str, statement: str) -> None:
    """PostgreSQL refuses what the role has no business with."""
    with psycopg.connect(world.source, autocommit=True) as conn:
        conn.execute("CREATE TABLE tenant.other ()")
    with psycopg.connect(world.roles.ddl, autocommit=True) as conn:
        conn.execute("CREATE TABLE cdc.offset_ledger ()")
    with (
        psycopg.connect(getattr(world.roles, role), autocommit=True) as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        conn.execute(statement.encode())
