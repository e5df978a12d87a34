"""The fixture of `tests.roles_world`: a pytest plugin of the modules that run the product under its roles."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.product import Product
from devstack.stack import Stack
from tests.roles import four_roles
from tests.roles_world import World


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
