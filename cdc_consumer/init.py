"""The hand-off protocol: no gap between history and stream, by construction.

In: a narrow table, an empty or known topic. Out: a hand-off row in the target and a connector that streams
from the slot's consistent point. The order is the guarantee:

1. create or check the topic; publication and heartbeat table
2. read the topic's end offsets: the epoch's events lie beyond them
3. create the slot; its consistent point is L0
4. xid barrier: take S0 in its own transaction, wait until every snapshot sees all below S0
5. hand-off row and ledger rows, in one transaction
6. register the connector at L0, see it run and a heartbeat arrive

A transaction that commits at or after L0 is in the stream; one before has a transaction id below S0, so
every snapshot of history that passed the barrier sees it. Nothing is held open while waiting. Run again, it
finishes what was left half done; on a healthy hand-off it changes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

import structlog

from cdc_consumer import health, source_database
from cdc_consumer.deployment import Deployment, one_at_a_time, open_deployment
from cdc_consumer.publication import ensure_heartbeat, ensure_publication
from cdc_consumer.registration import RUNBOOK, Report, register, require_debezium
from cdc_consumer.settings import Settings, TopicSettings
from cdc_consumer.slot import Slot, create_slot, drop_slot, held_up, in_use, read_slot
from cdc_consumer.topic import Topic, Topics
from widetable.barrier import barrier_passed, source_identity, take_barrier
from widetable.control import check_control, migrate
from widetable.ddl import ddl_errors
from widetable.encoding import require_source_encoding, require_target_encoding
from widetable.errors import ConfigurationError, UnreachableError
from widetable.hand_off import HandOff, read_hand_off, read_ledger, write_hand_off
from widetable.lsn import format_lsn
from widetable.postgres import Connection, connect_ddl

log = structlog.get_logger(__name__)

POLL_S: Final = 0.05
DROP_WAIT_S: Final = 10.0
TOPIC_WAIT_S: Final = 30.0


def init(settings: Settings, *, wait_s: float, report: Report) -> HandOff:
    """Bring the pipeline's hand-off about, or see that it is healthy; `report` hears of each change.

    Args:
        settings: the deployment.
        wait_s: longest wait, in seconds, for open transactions and for the connector, each.
        report: called with a sentence per change.

    Raises:
        ConfigurationError: something a person must set right; the message says what.
        UnreachableError: a part does not answer, or transactions held the slot or the barrier up.
    """
    with open_deployment(settings, "cdc-consumer init") as deployment:
        require_debezium(deployment.connect)
        _migrate(settings, report)
        check_control(deployment.target, settings.target.control_schema)
        with one_at_a_time(deployment.target, settings.pipeline.name, wait_s):
            latest = read_hand_off(deployment.target, settings.pipeline.name)
            streaming = None if latest is None or latest.ended else latest
            hand_off = streaming or begin(deployment, latest, wait_s, report)
            register(deployment, hand_off, _require_healthy(deployment, hand_off), wait_s, report)
    return hand_off


def _migrate(settings: Settings, report: Report) -> None:
    """Bring the control schema to this version, as the role that owns it."""
    with closing(connect_ddl(settings.target, "cdc-consumer init")) as owner, ddl_errors(settings.target):
        for step in migrate(owner, settings.target.control_schema):
            report(f"control schema: applied {step.number:04} {step.name}")


def _require_healthy(deployment: Deployment, hand_off: HandOff) -> Slot:
    """See that settings, cluster, slot, publication and topic are those of the hand-off; returns the slot."""
    require_same_names(deployment, hand_off)
    if problem := broken(deployment, hand_off):
        raise ConfigurationError(f"{problem}. {RUNBOOK}")
    topic, slot = deployment.topics.describe(hand_off.topic), read_slot(deployment.source, hand_off.slot)
    if topic is None or slot is None:
        raise UnreachableError("slot or topic vanished while they were looked at: run the command again")
    rows = read_ledger(deployment.target, hand_off.pipeline, hand_off.topic_id)
    known = [row.partition for row in rows]
    if problem := health.partition_problem(topic, known) or health.unfinished_problem(topic, known):
        raise ConfigurationError(problem)
    return slot


def require_same_names(deployment: Deployment, hand_off: HandOff) -> None:
    """Refuse settings that name another slot, publication or topic than the hand-off."""
    if problem := health.settings_problem(deployment.settings, hand_off):
        raise ConfigurationError(f"{problem}, or tear the pipeline down with the old value first")


def broken(deployment: Deployment, hand_off: HandOff) -> str | None:
    """Why changes are lost that only a new epoch gets past; None while the stream is whole."""
    settings, source, topics = deployment.settings, deployment.source, deployment.topics
    slot = read_slot(source, hand_off.slot)
    publication = source_database.publication(source, hand_off.publication)
    tables = [settings.source.table, settings.source.heartbeat_table]
    problem = (
        health.cluster_problem(source_identity(source), hand_off)
        or health.slot_problem(slot, hand_off)
        or health.publication_problem(publication, hand_off, tables)
    )
    if problem or slot is None:
        return problem
    topic = topics.describe(hand_off.topic)
    problem = health.topic_problem(topic, hand_off)
    if problem or topic is None:
        return problem
    # Read after the slot: the slot follows the position, so a sound one can't be behind then.
    stored = deployment.connect.stored_offset(settings.connector)
    # Of a connector that was removed Connect keeps the position, but does not tell it.
    removed = stored is None and deployment.connect.config(settings.connector) is None
    rows = read_ledger(deployment.target, hand_off.pipeline, hand_off.topic_id)
    held = topics.held_offsets(hand_off.topic, range(topic.partitions))
    problem = None if removed else health.position_problem(stored, slot, hand_off)
    return problem or health.retention_problem(held, rows)


def begin(deployment: Deployment, before: HandOff | None, wait_s: float, report: Report) -> HandOff:
    """Steps 1 to 5: everything up to the hand-off row."""
    settings, source = deployment.settings, deployment.source
    _refuse_stranger(deployment)
    require_fit(deployment)
    topic = _ensure_topic(deployment, report)
    _prepare_source(deployment, report)
    _drop_leftover(deployment, report)
    held = deployment.topics.held_offsets(topic.name, range(topic.partitions))
    with _new_slot(source, settings.slot, wait_s) as consistent_point:
        barrier_xid = _pass_barrier(source, wait_s)
        identity = source_identity(source)
        hand_off = HandOff(
            pipeline=settings.pipeline.name,
            epoch=before.epoch + 1 if before else 1,
            system_identifier=identity.system_identifier,
            timeline=identity.timeline,
            slot=settings.slot,
            publication=settings.publication,
            consistent_point=consistent_point,
            barrier_xid=barrier_xid,
            topic=topic.name,
            topic_id=topic.topic_id,
            boundary_offsets={partition: offsets.stop for partition, offsets in held.items()},
            placeholder=_placeholder(before, topic),
            verify_required=_gap(before),
        )
        write_hand_off(deployment.target, hand_off, held)
    report(f"epoch {hand_off.epoch} begins at {format_lsn(consistent_point)} with barrier {barrier_xid}")
    return hand_off


def _placeholder(before: HandOff | None, topic: Topic) -> str:
    """One per topic: what an earlier epoch left in it is read by the same decoder."""
    if before is not None and before.topic_id == topic.topic_id:
        return before.placeholder
    return f"__unavailable_{secrets.token_hex(16)}__"


def _gap(before: HandOff | None) -> str | None:
    """Why all cells must be verified: what changed between two epochs is in no stream."""
    if before is None:
        return None
    return (
        f"epoch {before.epoch + 1} began after {before.verify_required or f'epoch {before.epoch} had ended'}"
    )


def require_fit(deployment: Deployment) -> None:
    """Refuse server, table or topic before anything is made or cleared away; changes nothing."""
    settings, source = deployment.settings, deployment.source
    if problem := source_database.server(source).problem():
        raise ConfigurationError(problem)
    require_source_encoding(source)
    require_target_encoding(deployment.target)
    table = source_database.narrow_table(source, settings.source.table)
    if table is None:
        raise ConfigurationError(
            f"the source has no table {settings.source.table}: check CDC_SOURCE__TABLE and CDC_SOURCE__DSN"
        )
    for problem in table.problems(settings.source.table):
        raise ConfigurationError(problem)
    if topic := deployment.topics.describe(settings.topic_name):
        _refuse_shape(topic, settings.topic)


def _refuse_stranger(deployment: Deployment) -> None:
    """A connector without a hand-off is not for us to change."""
    settings = deployment.settings
    if deployment.connect.config(settings.connector) is not None:
        raise ConfigurationError(
            f"Kafka Connect has a connector {settings.connector}, but the target holds no hand-off for it: it"
            " belongs to another pipeline (set CDC_PIPELINE__NAME), its target was lost (`cdc-consumer teardown"
            " --without-target` removes it), or `reinit` was interrupted (run it again)"
        )


def _prepare_source(deployment: Deployment, report: Report) -> None:
    """Step 1 at the source: heartbeat table and publication."""
    settings, source = deployment.settings, deployment.source
    heartbeat_table = settings.source.heartbeat_table
    role = settings.source_as_connect_sees_it()["user"]
    for change in ensure_heartbeat(source, heartbeat_table, role):
        report(change)
    for change in ensure_publication(source, settings.publication, [settings.source.table, heartbeat_table]):
        report(change)


def _ensure_topic(deployment: Deployment, report: Report) -> Topic:
    """Step 1 in Kafka."""
    topics, name, shape = deployment.topics, deployment.settings.topic_name, deployment.settings.topic
    topic = topics.describe(name)
    if topic is None:
        topics.create(name, shape)
        report(f"created topic {name} with {shape.partitions} partitions")
        topic = _wait_topic(topics, name)
    _refuse_shape(topic, shape)
    return topic


def _refuse_shape(topic: Topic, shape: TopicSettings) -> None:
    """The Kafka key is the ship, not the row: compaction would lose nearly every event."""
    if topic.cleanup_policy != "delete":
        raise ConfigurationError(
            f"topic {topic.name} has cleanup.policy={topic.cleanup_policy}, which would lose events:"
            " set it to delete (kafka-configs --alter --add-config cleanup.policy=delete)"
        )
    if topic.partitions != shape.partitions:
        raise ConfigurationError(
            f"topic {topic.name} has {topic.partitions} partitions, CDC_TOPIC__PARTITIONS says {shape.partitions}:"
            " make them agree; the number is settled once, for it fixes which partition a ship is in"
        )


def _wait_topic(topics: Topics, name: str) -> Topic:
    """A new topic is known to the controller first, and to the other brokers a moment later."""
    deadline = time.monotonic() + TOPIC_WAIT_S
    while (topic := topics.describe(name)) is None:
        if time.monotonic() > deadline:
            raise UnreachableError(f"topic {name} was created but does not show up; run the command again")
        time.sleep(POLL_S)
    return topic


def _drop_leftover(deployment: Deployment, report: Report) -> None:
    """A slot without a hand-off row is what an interrupted init left: nobody has read from it."""
    name = deployment.settings.slot
    slot = read_slot(deployment.source, name)
    if slot is None:
        return
    database = deployment.source.info.dbname
    if slot.plugin != "pgoutput" or slot.database != database:
        raise ConfigurationError(
            f"replication slot {name} belongs to something else (plugin {slot.plugin}, database"
            f" {slot.database or 'none'}): set CDC_CONNECT__SLOT to another name"
        )
    if slot.active_pid is not None:
        raise in_use(slot)
    drop_slot(deployment.source, name, DROP_WAIT_S)
    report(f"dropped slot {name}, which an earlier init left without a hand-off")


@contextmanager
def _new_slot(source: Connection, name: str, wait_s: float) -> Iterator[int]:
    """Step 3: L0 of a new slot, which is dropped again unless the body ends well."""
    log.info("creating the replication slot; open transactions are waited for", slot=name, at_most_s=wait_s)
    consistent_point = create_slot(source, name, wait_s)
    try:
        yield consistent_point
    except BaseException:
        if not source.broken:
            drop_slot(source, name, DROP_WAIT_S)
        raise


def _pass_barrier(source: Connection, wait_s: float) -> int:
    """Step 4: returns S0 once every new snapshot of the source sees all that is below it."""
    barrier_xid = take_barrier(source)
    log.info("waiting for transactions older than the slot", barrier_xid=barrier_xid, at_most_s=wait_s)
    deadline = time.monotonic() + wait_s
    while not barrier_passed(source, barrier_xid):
        if time.monotonic() > deadline:
            raise held_up(source, f"the barrier {barrier_xid} was not passed", wait_s)
        time.sleep(POLL_S)
    return barrier_xid
