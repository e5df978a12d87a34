"""F1, F2: the consumer is killed, or cut off, at every point of a batch."""

from __future__ import annotations

from typing import Final

import pytest

from tests.faults.gates import Place
from tests.faults.world import World, logged
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

WRITTEN: Final = """
SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables WHERE schemaname = 'tenant'
"""
LEDGER_UPDATES: Final = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'offset_ledger'"
BATCHES: Final = "SELECT sum(batch_no) FROM offset_ledger"
# A session hands in its statistics at the latest when it ends.
AT_WORK: Final = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'cdc-consumer%'
"""
BACK_TO_THE_EPOCHS_BEGIN: Final = """
UPDATE cdc.offset_ledger ledger SET next_offset = (epoch.boundary_offsets ->> ledger.partition::text)::bigint
FROM cdc.hand_off epoch WHERE epoch.topic_id = ledger.topic_id AND epoch.ended_at IS NULL
"""


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


def all_handed_in(world: World) -> None:
    """The statistics hold all that consumers wrote."""
    wait_until(lambda: not world.pipeline.target_value(AT_WORK), "the consumer's sessions have ended")


def replay_writes_nothing(world: World) -> None:
    """From the epoch's begin to the end once more: PostgreSQL counts no tuple that was written.

    That it counted at all is seen by the ledger, which the same transactions move on.
    """
    all_handed_in(world)
    end, written = world.position(), world.pipeline.target_value(WRITTEN)
    updates, batches = (world.pipeline.target_value(query) for query in (LEDGER_UPDATES, BATCHES))
    world.target(BACK_TO_THE_EPOCHS_BEGIN)
    assert world.position() < end
    consumer = world.consume()
    wait_until(lambda: world.position() >= end, "the topic is read again", 90.0)
    world.at_rest()
    assert consumer.terminate() == 0, logged(consumer)
    all_handed_in(world)
    batches = world.pipeline.target_value(BATCHES) - batches
    assert batches > 0
    assert world.pipeline.target_value(LEDGER_UPDATES) >= updates + batches
    assert written > 0
    assert world.pipeline.target_value(WRITTEN) == written


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
    """The database has the batch and Kafka does not know: the ledger decides; a replay of all writes no tuple."""
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
    replay_writes_nothing(world)


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
