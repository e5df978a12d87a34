"""A pipeline of the product on the real chain: its own databases, topic, slot and connector for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from devstack.product import Process, Product
from devstack.stack import Stack

DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The product's commands on fresh databases of a running chain."""

    product: Product
    source: str
    target: str
    folder: Path

    def succeed(self, *command: str) -> str:
        """Run a command that must end with 0; returns its standard output."""
        done = self.product.run(*command, quiet=True)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def hand_off(self, *options: str) -> None:
        """Make the tables and the hand-off."""
        self.succeed("cdc-consumer", "schema", "apply", *options)
        self.succeed("cdc-consumer", "init")

    def consume(self, processes: int = 1) -> Process:
        """Start the consumer."""
        return self.product.start("cdc-consumer", "run", "--processes", str(processes))

    def verify(self) -> None:
        """Source and target must agree to the last cell."""
        self.succeed("backfill", "verify", "--settle-timeout", str(DEADLINE_S))

    def target_value(self, query: str) -> int:
        """A single number from the target, with the control schema on the path."""
        with psycopg.connect(self.target, autocommit=True, options="-c search_path=cdc,tenant") as conn:
            (row,) = conn.execute(query.encode()).fetchall()
        return int(row[0])


@pytest.fixture
def pipeline(stack: Stack, source_dsn: str, target_dsn: str, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline that nothing was done with yet; its connector is removed before its databases."""
    name = f"e2e_{secrets.token_hex(4)}"
    settings = {
        **stack.environment(),
        "CDC_SOURCE__DSN": source_dsn,
        "CDC_TARGET__DSN": target_dsn,
        "CDC_PIPELINE__NAME": name,
        "CDC_CONNECT__HEARTBEAT_MS": "500",
        "CDC_CONSUMER__HTTP_PORT": "0",
        "CDC_TOPIC__PARTITIONS": "4",
        "CDC_KAFKA__EXTRA__SESSION_TIMEOUT_MS": "6000",
    }
    product = Product(settings, tmp_path)
    yield Pipeline(product, source_dsn, target_dsn, tmp_path)
    product.kill_started()
    product.run("cdc-consumer", "teardown", "--yes", quiet=True)
