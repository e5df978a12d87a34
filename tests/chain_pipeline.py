"""A pipeline of the product on the real chain: its own databases, topic, slot and connector for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

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

    def consume(
        self, *options: str, processes: int = 1, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start the consumer."""
        count = ("--processes", str(processes))
        return self.product.start("cdc-consumer", "run", *count, *options, environment=environment)

    def verify(self) -> None:
        """Source and target must agree to the last cell."""
        self.succeed("backfill", "verify", "--settle-timeout", str(DEADLINE_S))

    def target_value(self, query: str) -> int:
        """A single number from the target, with the control schema on the path."""
        with psycopg.connect(self.target, autocommit=True, options="-c search_path=cdc,tenant") as conn:
            (row,) = conn.execute(query.encode()).fetchall()
        return int(row[0])


@contextmanager
def fresh_pipeline(
    stack: Stack, source: str, target: str, folder: Path, extra: Mapping[str, str]
) -> Iterator[Pipeline]:
    """A pipeline that nothing was done with yet; its connector is removed before its databases.

    `extra` wins over the settings of every pipeline; an empty value leaves one of them out.
    """
    settings = {
        **stack.environment(),
        "CDC_SOURCE__DSN": source,
        "CDC_TARGET__DSN": target,
        "CDC_PIPELINE__NAME": f"e2e_{secrets.token_hex(4)}",
        "CDC_CONNECT__HEARTBEAT_MS": "500",
        "CDC_CONSUMER__HTTP_PORT": "0",
        "CDC_TOPIC__PARTITIONS": "4",
        "CDC_KAFKA__EXTRA__SESSION_TIMEOUT_MS": "6000",
        **extra,
    }
    product = Product({name: value for name, value in settings.items() if value}, folder)
    yield Pipeline(product, source, target, folder)
    product.kill_started()
    product.run("cdc-consumer", "teardown", "--yes", quiet=True)
