"""Past a TRUNCATE of the source table: `cdc-consumer resume --after-truncate`.

In: a ledger that stands at a truncate, where the consumer stopped. Out: the ledger behind it, and a demand for a
verify, in one transaction. Guarantee: nothing but a truncate is passed, because the record itself is read from
the topic; and no consumer that is alive has its position moved under its hands.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import confluent_kafka as ck
import numpy as np

from cdc_consumer.decoder import Decoder, Epochs, TruncateError
from cdc_consumer.deployment import Deployment, one_at_a_time, open_deployment
from cdc_consumer.plain_decoder import open_decoder
from cdc_consumer.records import Records
from cdc_consumer.registration import Report
from cdc_consumer.registry import open_registry
from cdc_consumer.settings import Settings
from widetable.control import check_control
from widetable.errors import ConfigurationError, StoppedError, UnreachableError
from widetable.hand_off import HandOff, LedgerRow, pass_record, read_ledger, require_hand_off


def pass_truncate(settings: Settings, *, wait_s: float, report: Report) -> None:
    """Move the ledger past each truncate on which it stands; `report` hears of each.

    Raises:
        ConfigurationError: it stands at none.
        StoppedError: a consumer owns the partition and is alive.
        UnreachableError: a part does not answer.
    """
    with open_deployment(settings, "cdc-consumer resume") as deployment:
        check_control(deployment.target, settings.target.control_schema)
        with one_at_a_time(deployment.target, settings.pipeline.name, wait_s):
            hand_off = require_hand_off(deployment.target, settings.pipeline.name)
            found = list(_truncates(deployment, hand_off))
            if not found:
                raise ConfigurationError(
                    "no partition's next record is a TRUNCATE: there is nothing to pass. `cdc-consumer status`"
                    " shows the positions; what stands before a truncate is applied first, by `cdc-consumer run`"
                )
            for row in found:
                _pass(deployment, hand_off, row, report)


def _pass(deployment: Deployment, hand_off: HandOff, row: LedgerRow, report: Report) -> None:
    what = f"a TRUNCATE at the source (partition {row.partition}, offset {row.next_offset})"
    if not pass_record(
        deployment.target, hand_off, row.partition, row.next_offset, f"{what} was passed, not applied"
    ):
        raise StoppedError(
            f"partition {row.partition} is in use by {row.owner}, which is alive, or has moved on: stop"
            " `cdc-consumer run` and run the command again"
        )
    report(f"passed {what}")


def _truncates(deployment: Deployment, hand_off: HandOff) -> Iterator[LedgerRow]:
    """The ledger rows whose next record is a truncate."""
    settings, topics = deployment.settings, deployment.topics
    topic = topics.describe(hand_off.topic)
    if topic is None or topic.topic_id != hand_off.topic_id:
        raise ConfigurationError(
            f"topic {hand_off.topic} was deleted, or made anew: `cdc-consumer reinit` begins a new epoch"
        )
    rows = read_ledger(deployment.target, hand_off.pipeline, hand_off.topic_id)
    held = topics.held_offsets(topic.name, range(topic.partitions))
    with closing(open_registry(settings.registry)) as registry:
        table = settings.source.table
        decoder = open_decoder(settings.topic, registry, hand_off.placeholder, Epochs(()), table)
        for row in rows:
            if row.next_offset not in held.get(row.partition, range(0)):
                continue
            if _is_truncate(_read(settings, hand_off.topic, row), decoder, row):
                yield row


def _read(settings: Settings, topic: str, row: LedgerRow) -> ck.Message:
    """The first record at or after the ledger's position; joins no group and commits nothing."""
    place = ck.TopicPartition(topic, row.partition, row.next_offset)
    config = {"group.id": settings.group_id, "enable.auto.commit": False, "auto.offset.reset": "error"}
    with closing(ck.Consumer(settings.kafka.client(log_level=0, **config))) as consumer:
        consumer.assign([place])
        deadline = time.monotonic() + settings.kafka.request_timeout_s
        while (message := consumer.poll(0.5)) is None or message.error():
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"can't read partition {row.partition} of the topic at offset {row.next_offset}: is Kafka up?"
                )
    return message


def _is_truncate(message: ck.Message, decoder: Decoder, row: LedgerRow) -> bool:
    records = Records(
        [message.value()],
        [message.key()],
        np.array([row.partition], np.int32),
        np.array([message.offset()], np.int64),
        np.array([message.timestamp()[1]], np.int64),
    )
    try:
        decoder.decode(records)
    except TruncateError as error:
        return error.offset == row.next_offset
    return False
