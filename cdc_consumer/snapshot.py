"""`cdc-consumer snapshot`: all of history through Kafka, as events with op `r`, beside the running stream.

In: a pipeline after `init`. Out: every row of the narrow table in the topic, written by a connector of its own
(`snapshot.mode=initial_only`), which is removed at the end. Guarantee: no gap, by the same proof as for
`backfill`: the connector starts after the barrier was passed, on the cluster of the hand-off, so its snapshot
is a slice of history like any other; and an `r` only fills cells that are empty and were never changed, in
whatever order it arrives. The stream's own connector is left alone: with a stored position, which `init` must
give it, Debezium takes no snapshot.

Interrupted, it goes on: Connect keeps the connector, and the command waits for it again, or gives it up.
"""

from __future__ import annotations

import time
from typing import Final

from psycopg import sql

from cdc_consumer.connect import Connect, StoredOffset
from cdc_consumer.connector import Connector, render, snapshot_name
from cdc_consumer.deployment import Deployment, one_at_a_time, open_deployment
from cdc_consumer.init import broken
from cdc_consumer.registration import RUNBOOK, Report, failure, require_debezium
from cdc_consumer.settings import Settings
from cdc_consumer.teardown import remove_one
from widetable.barrier import require_barrier
from widetable.control import check_control
from widetable.errors import ConfigurationError
from widetable.hand_off import HandOff, require_hand_off

POLL_S: Final = 0.5
SAY_S: Final = 30.0

LEFT_OUT: Final = ("heartbeat.action.query", "message.key.columns")
"""Named after both tables, or of no use here; the key's is set again."""


def snapshot(settings: Settings, *, wait_s: float, detach: bool, report: Report) -> None:
    """Send all rows of the narrow table through the topic; `report` hears of each step.

    Args:
        settings: the deployment, after `init`.
        wait_s: longest wait for another command on this pipeline, in seconds.
        detach: return as soon as the connector has started; run again, the command waits for it.
        report: called with a sentence per step.

    Raises:
        ConfigurationError: no hand-off, a broken stream, or the connector failed.
        UnreachableError: a part does not answer.
        StoppedError: the source is another cluster than the stream's.
    """
    with open_deployment(settings, "cdc-consumer snapshot") as deployment:
        require_debezium(deployment.connect)
        check_control(deployment.target, settings.target.control_schema)
        with one_at_a_time(deployment.target, settings.pipeline.name, wait_s):
            hand_off = require_hand_off(deployment.target, settings.pipeline.name)
            wanted = connector(settings, hand_off)
            started = _ensure_started(deployment, hand_off, wanted, report)
        if detach or not started:
            return
        _wait_complete(deployment.connect, wanted.name, report)
        remove_one(deployment.connect, wanted.name, report)
        report(f"all of history is in topic {hand_off.topic}")


def give_up(settings: Settings, *, wait_s: float, report: Report) -> None:
    """Remove the connector, wherever it stands; what it has sent stays, for it is as good as any history.

    Args:
        settings: the deployment.
        wait_s: longest wait for another command on this pipeline, in seconds.
        report: called with a sentence if there was one.

    Raises:
        UnreachableError: a part does not answer.
    """
    with open_deployment(settings, "cdc-consumer snapshot") as deployment:
        check_control(deployment.target, settings.target.control_schema)
        with one_at_a_time(deployment.target, settings.pipeline.name, wait_s):
            remove_one(deployment.connect, snapshot_name(settings.connector), report)


def connector(settings: Settings, hand_off: HandOff) -> Connector:
    """The stream's connector, made to read the table once and end; it needs no slot and makes none."""
    stream = render(settings, hand_off.placeholder)
    kept = {name: value for name, value in stream.config.items() if name not in LEFT_OUT}
    own = {
        "snapshot.mode": "initial_only",
        "table.include.list": settings.source.table,
        "message.key.columns": f"{settings.source.table}:ship_id",
        "heartbeat.interval.ms": "0",
        # A second connector of the same prefix would register the same MBeans.
        "custom.metric.tags": "reader=snapshot",
    }
    return Connector(snapshot_name(stream.name), {**kept, **own})


def _ensure_started(deployment: Deployment, hand_off: HandOff, wanted: Connector, report: Report) -> bool:
    """Start the connector behind the barrier; one that is there already was. False if there is nothing to send."""
    connect = deployment.connect
    if connect.config(wanted.name) is not None:
        state = connect.state(wanted.name)
        if state is not None and state.failed:
            connect.restart_failed(wanted.name)
        connect.resume(wanted.name)
        report(f"connector {wanted.name} is at work already")
        return True
    if problem := broken(deployment, hand_off):
        raise ConfigurationError(f"{problem}. {RUNBOOK}")
    if not _has_rows_behind_barrier(deployment, hand_off):
        report(f"{deployment.settings.source.table} is empty: there is no history to send")
        return False
    connect.create_stopped(wanted.name, wanted.config)
    if connect.stored_offset(wanted.name) is not None:
        # Of one that was deleted in Connect by hand: with it, this one would be complete before it had read a row.
        connect.reset_offsets(wanted.name)
    connect.resume(wanted.name)
    report(f"started connector {wanted.name}, which sends all rows of {deployment.settings.source.table}")
    return True


def _has_rows_behind_barrier(deployment: Deployment, hand_off: HandOff) -> bool:
    """Whether there are rows, seen behind the barrier: every snapshot from now on is behind it, too.

    An empty table makes no event, so nothing would ever say that its snapshot is complete.
    """
    source = deployment.source
    table = sql.Identifier(*deployment.settings.source.table.split("."))
    with source.transaction():
        source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        require_barrier(source, hand_off)
        (found,) = source.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table)).fetchall()[0]
    return bool(found)


def _is_complete(stored: StoredOffset | None) -> bool:
    """Whether the snapshot's last record was acknowledged by Kafka: Connect stores its position after that."""
    return stored is not None and stored.raw.get("snapshot_completed") is True


def _wait_complete(connect: Connect, name: str, report: Report) -> None:
    said = time.monotonic()
    while not _is_complete(connect.stored_offset(name)):
        state = connect.state(name)
        if state is None:
            raise ConfigurationError(
                f"connector {name} was removed before its snapshot was complete: run `cdc-consumer snapshot`"
                " again"
            )
        if state.failed:
            raise failure(name, state.failed.reason)
        if time.monotonic() - said > SAY_S:
            said = time.monotonic()
            report(f"connector {name} still reads; Ctrl+C leaves it at work, run the command again to wait")
        time.sleep(POLL_S)
