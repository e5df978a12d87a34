"""F10, F14, F22: slot or topic are lost while the source changes: a loud stop, then a new epoch heals the gap."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from devstack.product import Process
from tests.faults.world import World, logged
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.faults]

STOP_S = 60.0
DROP = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
ADVANCE = "SELECT pg_replication_slot_advance(%s, pg_current_wal_insert_lsn())"
Break = Callable[[World], None]


def slot_of(world: World) -> str:
    """The pipeline's replication slot."""
    return str(world.target_text("SELECT slot FROM hand_off ORDER BY epoch DESC LIMIT 1"))


def connector(world: World, verb: str) -> None:
    """Stop or resume the connector by Connect's own interface, and see it done."""
    name = world.pipeline.product.environment["CDC_PIPELINE__NAME"]
    httpx.put(f"{world.stack.connect.url}/connectors/{name}/{verb}", timeout=30).raise_for_status()
    goal = {"stop": "STOPPED", "resume": "RUNNING"}[verb]

    def state() -> str:
        answer = httpx.get(f"{world.stack.connect.url}/connectors/{name}/status", timeout=30)
        return str(answer.json()["connector"]["state"])

    wait_until(lambda: state() == goal, f"the connector is {goal}", 60.0)


def unread(world: World) -> bool:
    """Whether nobody holds the slot."""
    query = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND active"
    return world.source_value(query, slot_of(world)) == 0


def drop_slot(world: World) -> None:
    """Somebody drops the slot."""
    world.source(DROP, slot_of(world))


def advance_slot(world: World) -> None:
    """Somebody moves the slot past changes that nobody has read."""
    world.source(ADVANCE, slot_of(world))


def outgrow_slot(world: World) -> None:
    """The source gives the slot up: it may not retain more WAL."""
    slot = slot_of(world)
    world.source("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    world.source("SELECT pg_reload_conf()")
    lost = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND wal_status = 'lost'"

    def gone() -> bool:
        world.source("SELECT pg_switch_wal()")
        world.source("CHECKPOINT")
        return world.source_value(lost, slot) == 1

    try:
        wait_until(gone, "the slot is invalidated", 60.0)
    finally:
        world.source("ALTER SYSTEM RESET max_slot_wal_keep_size")
        world.source("SELECT pg_reload_conf()")


def stopped_loudly(consumer: Process, code: int, named: str) -> None:
    """The consumer ends by itself, and says what to do."""
    wait_until(lambda: not consumer.running, "the consumer stops", STOP_S)
    assert consumer.child.returncode == code, logged(consumer)
    assert named in consumer.log.read_text(), logged(consumer)


def healed(world: World) -> Process:
    """The runbook: a new epoch, a consumer, and a verify that repairs what changed in the gap."""
    world.pipeline.succeed("cdc-consumer", "reinit", "--yes")
    consumer = world.consume()
    with world.load(mix=None):
        world.flows()
    world.at_rest()
    world.pipeline.succeed("backfill", "verify", "--repair", "--settle-timeout", "120")
    return consumer


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(drop_slot, marks=pytest.mark.fault("F10", "slot dropped"), id="dropped"),
        pytest.param(advance_slot, marks=pytest.mark.fault("F10", "slot advanced by hand"), id="advanced"),
        pytest.param(
            outgrow_slot, marks=pytest.mark.fault("F10", "slot invalidated by its WAL limit"), id="lost"
        ),
    ],
)
def test_a_broken_slot_stops_the_consumer_and_a_new_epoch_heals(world: World, harm: Break) -> None:
    """Inserts, updates, deletes and re-inserts of the gap are in no stream; verify finds and mends them."""
    history = world.history(20_000)
    world.hand_off()
    consumer = world.consume(environment={"CDC_CONSUMER__WATCH_S": "1"})
    with world.load(history=history):
        world.flows()
        connector(world, "stop")
        wait_until(lambda: unread(world), "the slot is free", 30.0)
        world.flowing_at_source()
        harm(world)
        world.fire()
        world.flowing_at_source()
    stopped_loudly(consumer, 6, "cdc-consumer reinit")
    world.prove(healed(world))


@pytest.mark.fault("F14", "partitions raised as planned")
def test_a_planned_repartition_keeps_every_order(world: World) -> None:
    """Consumers go on running; no ship's changes overtake one another."""
    world.hand_off()
    consumer = world.consume()
    with world.load(rows_per_second=1_000):
        world.flows()
        world.pipeline.succeed("cdc-consumer", "repartition", "--partitions", "8")
        assert len(world.end_offsets()) == 8
        world.fire()
        world.recovered()
        world.flows()
    world.prove(consumer)


@pytest.mark.fault("F14", "partitions raised behind our back")
def test_an_unplanned_repartition_stops_and_is_adopted(world: World) -> None:
    """The order of a ship's changes is not sure any more: a loud stop, then the command, then a repair."""
    world.hand_off()
    consumer = world.consume(environment={"CDC_CONSUMER__WATCH_S": "1"})
    admin = AdminClient({"bootstrap.servers": world.stack.kafka.bootstrap})
    with world.load(rows_per_second=1_000):
        world.flows()
        for done in admin.create_partitions([NewPartitions(world.topic, 8)]).values():
            done.result(30)
        world.fire()
        wait_until(lambda: not consumer.running, "the consumer stops", STOP_S)
    assert consumer.child.returncode in {3, 6}, logged(consumer)  # met by the worker, or seen by the watchdog
    assert "cdc-consumer repartition" in consumer.log.read_text(), logged(consumer)
    world.pipeline.succeed("cdc-consumer", "repartition", "--partitions", "8")
    consumer = world.consume()
    world.arrives()
    world.at_rest()
    world.pipeline.succeed("backfill", "verify", "--repair", "--settle-timeout", "120")
    world.prove(consumer)


def expire(world: World) -> None:
    """Retention removes what nobody has read."""
    admin = AdminClient({"bootstrap.servers": world.stack.kafka.bootstrap})
    asked = [TopicPartition(world.topic, number, end) for number, end in world.end_offsets().items()]
    for done in admin.delete_records(asked).values():
        done.result(30)


def recreate(world: World) -> None:
    """The topic is deleted, and made anew under its name."""
    admin = AdminClient({"bootstrap.servers": world.stack.kafka.bootstrap})
    topic = world.topic
    connector(world, "stop")
    for done in admin.delete_topics([topic]).values():
        done.result(30)
    wait_until(lambda: topic not in admin.list_topics(timeout=30).topics, "the topic is gone", 30.0)
    world.make_topic(topic, 4)
    connector(world, "resume")


@pytest.mark.parametrize(
    ("harm", "codes"),
    [
        pytest.param(expire, {3, 6}, marks=pytest.mark.fault("F22", "retention passed"), id="expired"),
        pytest.param(recreate, {3, 6}, marks=pytest.mark.fault("F22", "topic made anew"), id="recreated"),
    ],
)
def test_a_topic_that_lost_events_stops_and_a_new_epoch_heals(
    world: World, harm: Break, codes: set[int]
) -> None:
    """What was in the topic is gone; a consumer that starts on it says so, and reinit goes on."""
    history = world.history(20_000)
    world.hand_off()
    consumer = world.consume()
    with world.load(history=history):
        world.flows()
        assert consumer.terminate() == 0
        world.flowing_at_source()
        ends = sum(world.end_offsets().values())
        wait_until(lambda: sum(world.end_offsets().values()) > ends, "events nobody has read", 30.0)
        harm(world)
        world.fire()
        world.flowing_at_source()
    consumer = world.consume(environment={"CDC_CONSUMER__WATCH_S": "1"})
    wait_until(lambda: not consumer.running, "the consumer stops", STOP_S)
    assert consumer.child.returncode in codes, logged(consumer)
    assert "cdc-consumer reinit" in consumer.log.read_text(), logged(consumer)
    world.prove(healed(world))


def remake_longer(world: World, consumer: Process) -> None:
    """The new topic holds each offset of the ledger by the time that the consumer sees it."""
    world.stop(consumer)
    behind = world.positions()
    recreate(world)

    def refilled() -> bool:
        ends = world.end_offsets()
        return all(ends[number] > position for number, position in behind.items() if position)

    wait_until(refilled, "the new topic is as long as the old one", 60.0)
    world.resume(consumer)


@pytest.mark.parametrize(
    "remake",
    [
        pytest.param(
            lambda world, _: recreate(world),
            id="shorter",
            marks=pytest.mark.fault("F22", "topic made anew under a running consumer"),
        ),
        pytest.param(
            remake_longer,
            id="longer",
            marks=pytest.mark.fault("F22", "topic made anew under a running consumer, and longer"),
        ),
    ],
)
def test_a_topic_made_anew_stops_a_running_consumer_and_a_new_epoch_heals(
    world: World, remake: Callable[[World, Process], None]
) -> None:
    """It neither reads on from an offset that means nothing now, nor waits for ever for one to come."""
    history = world.history(20_000)
    world.hand_off()
    consumer = world.consume(environment={"CDC_CONSUMER__WATCH_S": "1"})
    with world.load(history=history):
        world.flows()
        remake(world, consumer)
        world.fire()
        stopped_loudly(consumer, 6, "cdc-consumer reinit")
        world.flowing_at_source()
    world.prove(healed(world))
