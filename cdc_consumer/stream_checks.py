"""Checks of the stream: Kafka and topic, registry, Connect and connector, hand-off and slot."""

from __future__ import annotations

from typing import Final

from cdc_consumer import health, source_database
from cdc_consumer.deployment import probe_registry
from cdc_consumer.findings import Finding, bad, ok, warning
from cdc_consumer.parts import Parts
from cdc_consumer.registration import RUNBOOK, failure, require_debezium
from cdc_consumer.slot import read_slot
from cdc_consumer.topic import Topic
from widetable.barrier import source_identity
from widetable.hand_off import read_ledger

MB: Final = 1 << 20
MS_PER_DAY: Final = 86_400_000
NEARLY_FULL: Final = 0.8
NO_HAND_OFF: Final = "there is no hand-off yet: `cdc-consumer init` makes it"


def kafka(parts: Parts) -> Finding:
    """Reachable, with enough brokers for the replication that is asked for."""
    brokers, wanted = parts.kafka().broker_count(), parts.settings.topic.replication_factor
    if wanted > brokers:
        return bad(f"CDC_TOPIC__REPLICATION_FACTOR is {wanted}, the number of brokers {brokers}")
    return ok(f"Kafka answers, brokers: {brokers}")


def topic(parts: Parts) -> Finding:
    """The topic keeps every event for long enough, and is the one of the hand-off."""
    settings = parts.settings
    found = parts.kafka().describe(settings.topic_name)
    hand_off = parts.hand_off()
    if hand_off is not None:
        rows = read_ledger(parts.control(), hand_off.pipeline, hand_off.topic_id)
        if problem := health.topic_problem(found, hand_off):
            return bad(f"{problem}. {RUNBOOK}")
        known = [row.partition for row in rows]
        if found and (
            problem := health.partition_problem(found, known) or health.unfinished_problem(found, known)
        ):
            return bad(problem)
    if found is None:
        return ok(f"topic {settings.topic_name} will be made by `init`")
    return _shape(found, settings.topic.partitions, settings.topic.retention_ms)


def _shape(found: Topic, partitions: int, retention_ms: int) -> Finding:
    if found.cleanup_policy != "delete":
        return bad(f"topic {found.name} has cleanup.policy={found.cleanup_policy}: set it to delete")
    if found.partitions != partitions:
        return bad(
            f"topic {found.name} has {found.partitions} partitions, CDC_TOPIC__PARTITIONS says {partitions}"
        )
    if 0 <= found.retention_ms < retention_ms:
        return warning(
            f"topic {found.name} keeps events for {found.retention_ms / MS_PER_DAY:.1f} days, less than"
            f" CDC_TOPIC__RETENTION_DAYS: a consumer that is down for longer loses some"
        )
    return ok(f"topic {found.name}: {found.partitions} partitions, cleanup.policy=delete")


def registry(parts: Parts) -> Finding:
    """The schema registry answers, where the topic needs one."""
    if probe_registry(parts.settings):
        return ok("the schema registry answers")
    return ok("no schema registry is needed: CDC_TOPIC__FORMAT=json")


def connect(parts: Parts) -> Finding:
    """Connect answers, and has a Debezium that doesn't lose rows on restart."""
    client = parts.connect()
    return ok(f"Kafka Connect {client.version()} with Debezium {require_debezium(client)}")


def connector(parts: Parts) -> Finding:
    """The connector runs."""
    name = parts.settings.connector
    state = parts.connect().state(name)
    if state is None:
        if parts.hand_off() is None:
            return ok(f"connector {name} will be registered by `init`")
        return bad(f"connector {name} is not registered: `cdc-consumer init` registers it")
    if state.failed:
        return bad(str(failure(name, state.failed.reason)))
    if not state.running:
        return bad(f"connector {name} is {state.summary}: `cdc-consumer init` starts it")
    return ok(f"connector {name} is RUNNING")


def hand_off(parts: Parts) -> Finding:
    """There is a hand-off, made with these settings from this cluster."""
    latest = parts.latest_hand_off()
    if latest is None:
        return warning(NO_HAND_OFF)
    if latest.ended:
        return warning(
            f"the pipeline was torn down after epoch {latest.epoch}: `cdc-consumer init` begins anew"
        )
    if problem := health.settings_problem(parts.settings, latest):
        return bad(problem)
    if problem := health.cluster_problem(source_identity(parts.source()), latest):
        return bad(f"{problem}. {RUNBOOK}")
    if latest.verify_required:
        return warning(f"{latest.verify_required}: run `backfill verify --repair`, over all ships and times")
    return ok(f"epoch {latest.epoch} of pipeline {latest.pipeline}")


def slot(parts: Parts) -> Finding:
    """The slot is there, read, and far from its limit."""
    current = parts.hand_off()
    if current is None:
        return _unclaimed(parts)
    found = read_slot(parts.source(), current.slot)
    problem = health.slot_problem(found, current)
    if problem or found is None:
        return bad(f"{problem}. {RUNBOOK}")
    limit = source_database.server(parts.source()).wal_budget
    retained = f"retains {found.retained_bytes / MB:,.0f} MB of WAL"
    if limit > 0 and found.retained_bytes > NEARLY_FULL * limit:
        return bad(f"slot {found.name} {retained} of {limit / MB:,.0f} MB: it will be lost soon")
    if found.active_pid is None:
        return warning(f"slot {found.name} {retained} and nobody reads it")
    return ok(f"slot {found.name} is read and {retained}")


def _unclaimed(parts: Parts) -> Finding:
    name = parts.settings.slot
    found = read_slot(parts.source(), name)
    if found is None:
        return ok(f"slot {name} will be made by `init`")
    if found.active_pid is not None:
        return bad(f"slot {name} is in use by pid {found.active_pid}: set CDC_CONNECT__SLOT to another name")
    return warning(f"slot {name} is there without a hand-off: `init` makes it anew")
