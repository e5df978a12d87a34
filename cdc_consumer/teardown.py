"""Giving a pipeline's stream up: connector, slot, publication and heartbeat table go, all data stays.

In: a deployment. Out: a sentence per thing removed. Guarantee: no abandoned slot is left to fill the
source's disk, and the hand-off says that its epoch ended on purpose, so that the next `init` begins a new
one. The topic, the wide tables and the ledgers are left alone: what is still in the topic will be applied.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from cdc_consumer.connect import Connect
from cdc_consumer.connector import snapshot_name
from cdc_consumer.deployment import one_at_a_time
from cdc_consumer.publication import Dropped, drop_heartbeat, drop_publication
from cdc_consumer.registration import Report
from cdc_consumer.settings import Settings
from cdc_consumer.slot import drop_slot
from widetable.control import check_control
from widetable.hand_off import end_epoch
from widetable.postgres import connect_source, connect_target

SLOT_WAIT_S: Final = 30.0
"""A killed Connect worker's session outlives it until the server notices."""


def teardown(
    settings: Settings, *, wait_s: float, with_connect: bool, report: Report, with_target: bool = True
) -> None:
    """Remove what `init` made at the source and in Kafka Connect; `report` hears of each removal.

    Args:
        settings: the deployment.
        wait_s: longest wait for another command, in seconds.
        with_connect: False leaves Connect alone, for a Connect cluster that is gone for good.
        report: called with a sentence per removal.
        with_target: False leaves the target alone, for one that is lost; the slot must go all the same.

    Raises:
        ConfigurationError: somebody else reads the slot.
        UnreachableError: a part does not answer; nothing after it was removed.
    """
    with (
        connect_source(settings.source, "cdc-consumer teardown") as source,
        ExitStack() as stack,
    ):
        if with_target:
            target = stack.enter_context(connect_target(settings.target, "cdc-consumer teardown"))
            check_control(target, settings.target.control_schema)
            stack.enter_context(one_at_a_time(target, settings.pipeline.name, wait_s))
        # The reader goes first: it would make the slot anew, or fail for want of its publication.
        if with_connect:
            with Connect(settings.connect) as connect:
                remove_connector(connect, settings.connector, report)
        if drop_slot(source, settings.slot, SLOT_WAIT_S):
            report(f"dropped replication slot {settings.slot}")
        if with_target:
            end_epoch(target, settings.pipeline.name, "the pipeline was torn down")
        _drop(f"publication {settings.publication}", drop_publication(source, settings.publication), report)
        heartbeat_table = settings.source.heartbeat_table
        _drop(f"heartbeat table {heartbeat_table}", drop_heartbeat(source, heartbeat_table), report)


def _drop(what: str, dropped: Dropped, report: Report) -> None:
    match dropped:
        case Dropped.YES:
            report(f"dropped {what}")
        case Dropped.NOT_OURS:
            report(f"left {what}, which belongs to another role; the next init uses it again")
        case Dropped.NOTHING_THERE:
            pass


def remove_connector(connect: Connect, name: str, report: Report) -> None:
    """Remove the stream's connector, and the one that sends history: what that one reads is of its epoch."""
    for each in (snapshot_name(name), name):
        remove_one(connect, each, report)


def remove_one(connect: Connect, name: str, report: Report) -> None:
    """Remove a connector with its stored position, if it is there."""
    if connect.config(name) is None:
        return
    connect.stop(name)
    connect.reset_offsets(name)
    connect.delete(name)
    report(f"removed connector {name} and its position")
