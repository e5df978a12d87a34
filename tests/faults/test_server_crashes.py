"""F8, F9, F19: broker, source and target crash under load and come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from devstack.postgres import Postgres
from devstack.service import free_port
from devstack.stack import Stack
from tests.faults.world import World, logged
from tests.waiting import wait_until
from widetable.errors import UnreachableError

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

AWAY_S: Final = 8.0
"""Longer than a session of the group and than several of the consumer's pauses."""
CRASHES: Final = 1
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


def stay_away() -> None:
    """An outage of its full length."""
    away_until = time.monotonic() + AWAY_S
    wait_until(lambda: time.monotonic() > away_until, "the outage is over", 2 * AWAY_S)


@pytest.mark.fault("F8", "kill -9 the broker")
def test_a_broker_that_is_killed_and_comes_back_costs_nothing(world: World) -> None:
    """Connect and the consumer wait for it; the events of the meantime follow."""
    world.hand_off(ships_known=True)
    consumer = world.consume()
    kafka = world.stack.kafka
    with world.load():
        for _ in range(CRASHES):
            world.flows()
            kafka.kill()
            stay_away()
            assert not kafka.healthy()
            world.fire()
            kafka.start()
            world.recovered()
        world.flows()
    assert consumer.running, logged(consumer)
    world.prove(consumer)


def killed_under_load(world: World, source: Postgres) -> None:
    """The load ends with its server; what it had committed by then counts.

    Raises:
        UnreachableError: the load's.
    """
    with world.load() as live:
        world.flows()
        source.kill()
        assert live.wait(30.0), "the load hears of it"
        world.record.events += live.report().events


@pytest.mark.fault("F9", "kill -9 the source PostgreSQL")
def test_a_source_that_is_killed_and_comes_back_costs_nothing(world: World, source_cluster: Postgres) -> None:
    """The slot stands where it was last written down, so some changes come twice."""
    world.hand_off()
    consumer = world.consume()
    for _ in range(CRASHES):
        with pytest.raises(UnreachableError):
            killed_under_load(world, source_cluster)
        world.fire()
        stay_away()
        source_cluster.start()
        world.recovered()
    with world.load():
        world.flows()
    assert consumer.running, logged(consumer)
    world.prove(consumer)


class TestForgetfulTarget:
    """A target that loses its last commits in a crash."""

    @pytest.fixture(scope="class")
    def target_cluster(self, chain: Stack) -> Iterator[Postgres]:
        """One that writes its WAL late."""
        cluster = Postgres(chain.folder / "forgetful", free_port(), FORGETFUL)
        cluster.start()
        yield cluster
        cluster.wipe()

    @pytest.mark.fault("F19", "target crash with synchronous_commit=off")
    def test_data_and_ledger_go_back_together(self, world: World, target_cluster: Postgres) -> None:
        """The consumer was told of these commits; it asks the ledger again and reads from there."""
        world.hand_off(ships_known=True)
        world.target("CHECKPOINT")  # the hand-off itself is safe
        consumer = world.consume()
        with world.load():
            for _ in range(10):
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
