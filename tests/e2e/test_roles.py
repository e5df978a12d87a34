"""The main job with the four roles of `deploy/roles.sql`, hostile ids included; and what no role may do."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from devstack.product import Product
from devstack.stack import Stack
from tests.roles import Roles, four_roles
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

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
INSERT = """
INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, str_v, value_format)
VALUES (%s, %s, timestamp '2026-01-01' + %s * interval '15 s', %s, 'String')
"""


@dataclass(frozen=True, slots=True)
class World:
    """Databases as their administrator sees them, and the programs with their roles."""

    source: str
    target: str
    roles: Roles
    consumer: Product
    backfill: Product
    folder: Path

    def succeed(self, *command: str) -> str:
        """Run a command with its own role; no password may stand in what it prints."""
        product = self.backfill if command[0] == "backfill" else self.consumer
        done = product.run(*command, quiet=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{said}"
        assert not [password for password in self.roles.passwords if password in said]
        return said

    def insert(self, ships: tuple[str, ...], channels: tuple[str, ...], moment: int) -> None:
        """A sample of each channel of each ship, its value an id."""
        with psycopg.connect(self.source, autocommit=True) as conn:
            rows = [(ship, channel, moment, channel) for ship in ships for channel in channels]
            conn.cursor().executemany(INSERT, rows)


@pytest.fixture
def world(stack: Stack, source_dsn: str, target_dsn: str, tmp_path: Path) -> Iterator[World]:
    """Roles made by the script, nothing else."""
    name = f"roles_{secrets.token_hex(4)}"
    with four_roles(source_dsn, target_dsn, name) as roles:
        common = {
            **stack.environment(),
            "CDC_TARGET__DSN": roles.writer,
            "CDC_PIPELINE__NAME": name,
            "CDC_CONNECT__HEARTBEAT_MS": "500",
            "CDC_CONSUMER__HTTP_PORT": "0",
            "CDC_TOPIC__PARTITIONS": "4",
            "CDC_LOG__LEVEL": "debug",
        }
        at_source = {**common, "CDC_SOURCE__DSN": roles.debezium, "CDC_TARGET__DDL_DSN": roles.ddl}
        consumer = Product(at_source, tmp_path)
        backfill = Product({**common, "CDC_SOURCE__DSN": roles.history}, tmp_path)
        yield World(source_dsn, target_dsn, roles, consumer, backfill, tmp_path)
        consumer.kill_started()
        consumer.run("cdc-consumer", "teardown", "--yes", quiet=True)


def tables(dsn: str) -> set[tuple[str, str]]:
    """Every table of a database."""
    with psycopg.connect(dsn) as conn:
        return {(schema, name) for schema, name in conn.execute(TABLES.encode())}


def number(dsn: str, query: str) -> int:
    """A single number, with the control schema on the path."""
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=cdc,tenant") as conn:
        (row,) = conn.execute(query.encode()).fetchall()
    return int(row[0])


@pytest.mark.faults
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
