"""F8, F9: broker and source crash under load and come back."""

from __future__ import annotations

import time
from typing import Final

import pytest

from devstack.postgres import Postgres
from tests.faults.world import World, logged
from tests.waiting import wait_until
from widetable.errors import UnreachableError

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

AWAY_S: Final = 8.0
"""Longer than a session of the group and than several of the consumer's pauses."""
CRASHES: Final = 1


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
