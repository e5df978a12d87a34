"""F1, F2: the consumer is killed, or cut off, at every point of a batch."""

from __future__ import annotations

import pytest

from tests.faults.gates import Place
from tests.faults.world import World
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def killed_at(world: World, place: Place) -> None:
    """The consumer reaches the place, is killed there, and another one goes on."""
    world.hand_off(ships_known=True)
    consumer = world.consume()
    with world.load():
        world.flows()
        with world.gate(place) as gate:
            gate.catch()
            consumer.kill()
            world.fire()
        successor = world.consume()
        world.recovered()
        world.flows()
    world.prove(successor)


@pytest.mark.faults
@pytest.mark.fault("F1", "kill -9 before the ledger UPDATE")
def test_a_kill_before_the_ledger_update_loses_nothing(world: World) -> None:
    """Nothing of the batch is in; the successor reads it again."""
    killed_at(world, "before ledger")


@pytest.mark.faults
@pytest.mark.fault("F1", "kill -9 after the ledger UPDATE")
def test_a_kill_after_the_ledger_update_loses_nothing(world: World) -> None:
    """The ledger's move goes back with its transaction."""
    killed_at(world, "after ledger")


@pytest.mark.fault("F1", "kill -9 in mid-COPY")
def test_a_kill_in_mid_copy_loses_nothing(world: World) -> None:
    """Half a COPY is no row at all."""
    killed_at(world, "in copy")


@pytest.mark.faults
@pytest.mark.fault("F1", "kill -9 between database and Kafka commit")
def test_a_kill_between_the_two_commits_writes_nothing_twice(world: World) -> None:
    """The database has the batch and Kafka does not know: the ledger decides."""
    world.hand_off(ships_known=True)
    consumer = world.consume()
    with world.load():
        world.flows()
        with world.gate("at commit") as gate:
            gate.catch()
            world.stop(consumer)
            before = world.position()
            gate.open()
            wait_until(lambda: world.position() > before, "the batch commits behind the client's back")
            consumer.kill()
        assert world.group_position() < world.position()
        world.fire()
        successor = world.consume()
        world.recovered()
    world.prove(successor)


@pytest.mark.faults
@pytest.mark.fault("F2", "session ended during COMMIT, rolled back")
def test_a_commit_that_failed_is_done_again(world: World) -> None:
    """The consumer can't know how its COMMIT ended, asks the ledger, and applies the batch anew."""
    world.hand_off(ships_known=True)
    consumer = world.consume()
    with world.load():
        world.flows()
        with world.gate("at commit") as gate:
            gate.catch()
            gate.end_caught()
            world.fire()
        world.recovered()
    world.prove(consumer)


@pytest.mark.faults
@pytest.mark.fault("F2", "connection cut during COMMIT, committed")
def test_a_commit_whose_answer_was_lost_is_not_done_again(world: World) -> None:
    """The consumer can't know how its COMMIT ended, asks the ledger, and goes on behind the batch."""
    database = world.pipeline.target.rsplit("/", 1)[1]
    port = world.stack.postgres.port
    with TcpProxy("127.0.0.1", port) as proxy:
        direct, through = f":{port}/{database}", f":{proxy.port}/{database}"
        world.hand_off(ships_known=True)
        dsn = world.pipeline.target.replace(direct, through)
        assert dsn != world.pipeline.target
        consumer = world.consume(environment={"CDC_TARGET__DSN": dsn})
        with world.load():
            world.flows()
            with world.gate("at commit") as gate:
                gate.catch()
                before = world.position()
                proxy.cut()
                gate.open()
                wait_until(lambda: world.position() > before, "the batch commits")
                world.fire()
            world.recovered()
        world.prove(consumer)
