"""F19: a target that loses its last commits in a crash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from devstack.postgres import Postgres
from devstack.service import free_port
from devstack.stack import Stack
from tests.faults.world import World, logged

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

ATTEMPTS: Final = 10
CRASHES: Final = 2
# Commits stay in memory for up to ten seconds, and nothing else writes the WAL before that.
FORGETFUL: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1GB",
    "wal_buffers": "128MB",
    "bgwriter_lru_maxpages": "0",
    "shared_buffers": "512MB",
}


@pytest.fixture(scope="module")
def target_cluster(chain: Stack) -> Iterator[Postgres]:
    """One that writes its WAL late."""
    cluster = Postgres(chain.folder / "forgetful", free_port(), FORGETFUL)
    cluster.start()
    yield cluster
    cluster.wipe()


@pytest.mark.fault("F19", "target crash with synchronous_commit=off")
def test_data_and_ledger_go_back_together(world: World, target_cluster: Postgres) -> None:
    """The consumer was told of these commits; it asks the ledger again and reads from there."""
    world.hand_off(ships_known=True)
    world.target("CHECKPOINT")  # the hand-off itself is safe
    consumer = world.consume()
    with world.load():
        for _ in range(ATTEMPTS):
            world.flows(4_000)
            before = world.position()
            target_cluster.kill()
            world.stop(consumer)  # or it would catch up before the look at the ledger
            target_cluster.start()
            if world.position() < before:
                world.fire()
            world.resume(consumer)
            world.recovered()
            if world.record.fired >= CRASHES:
                break
        world.flows()
    assert consumer.running, logged(consumer)
    world.prove(consumer)
