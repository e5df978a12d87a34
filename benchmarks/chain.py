"""The chain that is measured: servers of its own in a folder of its own, one database, one fleet.

In: a scale. Out: a `World` with the narrow table filled and settled. Servers are set as a small real server
would be, and the settings that decide how safe a commit is are pinned to the safe side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks import jdbc_sink
from devstack.errors import DevstackError
from devstack.fleet import FleetPlan, plan_fleet, write_history
from devstack.jars import jars
from devstack.product import Product
from devstack.stack import Stack

Connection = psycopg.Connection[tuple[Any, ...]]

NARROW: Final = "tenant.tbl_data_timeseries"
START: Final = datetime(2026, 1, 1)
MINUTE_ROWS: Final = 33_664
"""Cells of a minute without gaps: 8 ships x 1,052 channels x 4 moments."""

POSTGRES: Final = {
    # What makes a commit safe, pinned.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # A modest server; nothing that writes by itself in the middle of an arm.
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "autovacuum": "off",
}
KAFKA: Final = {
    # Kafka's own default: members that start together are in the group's first generation together.
    "group.initial.rebalance.delay.ms": "3000",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        minutes: of history, and of events in the topic, for a fleet of 8 ships.
        slow_minutes: of the topic that the slow arms of the stream read.
        repeats: runs of each arm.
        bursts: minute's bursts whose latency is taken.
        steady_s: length of the steady load, seconds.
    """

    minutes: int
    slow_minutes: int
    repeats: int
    bursts: int
    steady_s: float


FULL: Final = Scale(minutes=54, slow_minutes=5, repeats=5, bursts=12, steady_s=60)
QUICK: Final = Scale(minutes=8, slow_minutes=1, repeats=1, bursts=3, steady_s=10)
SMOKE: Final = Scale(minutes=2, slow_minutes=1, repeats=1, bursts=1, steady_s=8)
SCALES: Final = {"full": FULL, "quick": QUICK, "smoke": SMOKE}


@dataclass(frozen=True, slots=True)
class World:
    """A running chain with a filled narrow table.

    Attributes:
        rows: of the narrow table.
        database: that holds the narrow table and the targets of all arms.
        folder: for logs and reports.
    """

    stack: Stack
    fleet: FleetPlan
    scale: Scale
    rows: int
    database: str
    folder: Path

    @property
    def dsn(self) -> str:
        """The database."""
        return self.stack.postgres.dsn(self.database)

    def connect(self) -> Connection:
        """A session in autocommit mode."""
        return psycopg.connect(self.dsn, autocommit=True)

    def product(self, name: str, **more: str) -> Product:
        """The product's commands for a pipeline of this name, with control and wide schema of its own."""
        return Product(self.settings(name, **more), self.folder)

    def settings(self, name: str, **more: str) -> dict[str, str]:
        """The environment of that pipeline."""
        return {
            **self.stack.environment(),
            "CDC_SOURCE__DSN": self.dsn,
            "CDC_TARGET__DSN": self.dsn,
            "CDC_SOURCE__HEARTBEAT_TABLE": f"{control_schema(name)}.heartbeat",
            "CDC_TARGET__CONTROL_SCHEMA": control_schema(name),
            "CDC_TARGET__WIDE_SCHEMA": wide_schema(name),
            "CDC_PIPELINE__NAME": name,
            "CDC_CONNECT__HEARTBEAT_MS": "1000",
            "CDC_CONSUMER__HTTP_PORT": "0",
            "CDC_TOPIC__PARTITIONS": "4",
            "CDC_LOG__LEVEL": "warning",
            **more,
        }


def control_schema(pipeline: str) -> str:
    """Where a pipeline keeps its ledgers."""
    return f"cdc_{pipeline}"


def wide_schema(pipeline: str) -> str:
    """Where a pipeline keeps its wide tables."""
    return f"wide_{pipeline}"


def succeed(product: Product, *command: str) -> str:
    """Run a command that must end with 0; returns what it printed.

    Raises:
        DevstackError: it did not.
    """
    done = product.run(*command, quiet=True)
    if done.returncode:
        raise DevstackError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def running_stack(folder: Path, *, keep: bool = False) -> Iterator[Stack]:
    """The servers, started if they don't run; with `keep` they are left running for the next time."""
    sink = jdbc_sink.plugin()
    connect = {"plugin.path": f"{jars() / 'plugins'},{sink}"}
    stack = Stack(folder, detached=True, settings={"postgres": POSTGRES, "kafka": KAFKA, "connect": connect})
    try:
        stack.up(lambda line: print(f"  {line}", flush=True))
        yield stack
    finally:
        if not keep:
            stack.wipe()


@contextmanager
def fleet_world(
    stack: Stack, scale: Scale, folder: Path, fleet: FleetPlan | None = None, name: str = "bench"
) -> Iterator[World]:
    """A database with `scale.minutes` of the fleet's history, vacuumed and analysed; dropped afterwards."""
    fleet = fleet or plan_fleet(8, seed=1)
    rows = int(scale.minutes * len(fleet.ships) * len(fleet.channels) * 4)
    stack.postgres.drop_database(name)
    dsn = stack.postgres.create_database(name)
    world = World(stack, fleet, scale, rows, name, folder)
    try:
        report = write_history(dsn, fleet, rows, START)
        print(f"  {rows:,} rows of history written in {report.seconds:.0f} s", flush=True)
        with world.connect() as conn:
            conn.execute(f"VACUUM (ANALYZE, FREEZE) {NARROW}")
        yield world
    finally:
        stack.postgres.drop_database(name)


def settings_shown() -> Mapping[str, str]:
    """The pinned settings, for the report."""
    return {**POSTGRES, **KAFKA}
