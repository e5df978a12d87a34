"""Kafka -> `Records`: one group member, its assignment, and the records of its partitions in order.

In: the topic. Out: batches of raw records, with the times that the hold and the lag are measured by. Where to
start reading is never Kafka's to say: nothing of a newly assigned partition is fetched until its ledger row has
been claimed and `start` names the offset. Committing offsets to Kafka is a courtesy to lag tools.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import confluent_kafka as ck
import numpy as np
import structlog

from cdc_consumer.records import Records
from widetable.errors import ConfigurationError, RetryableError, StoppedError, WideTableError

log = structlog.get_logger(__name__)

READER: Final[dict[str, Any]] = {
    "enable.auto.commit": False,
    "enable.partition.eof": False,
    "auto.offset.reset": "error",
    # librdkafka's default waits a second before it fetches again once its queue was full.
    "fetch.queue.backoff.ms": 10,
    # Partitions that `repartition` added are found in this time, not in five minutes.
    "topic.metadata.refresh.interval.ms": 30_000,
    "queued.min.messages": 100_000,
    # Of all partitions together: about 60,000 events, more than a batch. What is read further ahead falls out of
    # the caches again before its turn; each fetch comes on top, decompressed, so it is small, too.
    "queued.max.messages.kbytes": 16_384,
    "fetch.message.max.bytes": 3_000_000,
    "fetch.max.bytes": 12_000_000,
}
OFFSETS_GONE: Final = frozenset({ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE})  # noqa: SLF001 - librdkafka's own codes are spelled with an underscore
REFUSED: Final = frozenset(
    {ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.GROUP_AUTHORIZATION_FAILED}
)
PASSING: Final = frozenset({ck.KafkaError.UNKNOWN_TOPIC_OR_PART, ck.KafkaError._MAX_POLL_EXCEEDED})  # noqa: SLF001 - as above
GATHER_S: Final = 0.01
"""How long a read waits for more records once it has some: keeps rounds few while records come one by one."""
COMPLAINT_S: Final = 10.0
"""librdkafka's own complaints are logged once in so long, per kind."""

Assigned = Callable[[list[int]], None]


@dataclass(frozen=True, slots=True)
class Polled:
    """What one read brought, and each partition's latest record time, ms since 1970."""

    records: Records
    newest_ms: dict[int, int]


class Source:
    """A member of the consumer group."""

    def __init__(self, config: dict[str, Any], topic: str, assigned: Assigned, revoked: Assigned) -> None:
        """`assigned` and `revoked` are called with partitions from within `read`."""
        self._topic = topic
        self._assigned, self._revoked = assigned, revoked
        self._complained: dict[int, float] = {}  # error code -> when it was last logged
        self._reading: set[int] = set()  # of those assigned, the ones whose place the ledger has named
        self._consumer = ck.Consumer(
            {**READER, **config, "error_cb": self._complain, "log_level": 0}, logger=None
        )
        self._consumer.subscribe(
            [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    # -- assignment --------------------------------------------------------------------------------------

    def _on_assign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        # Says yes to the group and fetches nothing yet. An offset given here and corrected by a seek would not
        # do: the answer to a logical one (END, STORED) may come late and move the partition past the seek
        # (librdkafka asks again for an "outdated" answer), and 0 is out of range once retention has passed it.
        consumer.incremental_assign([])
        self._assigned([p.partition for p in partitions])

    def _on_revoke(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        self._revoked(numbers)
        consumer.incremental_unassign(self._places(numbers))
        self._reading -= set(numbers)

    def _on_lost(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._on_revoke(consumer, partitions)

    def start(self, partition: int, offset: int) -> None:
        """Read an assigned partition from exactly `offset` on, wherever it was read before.

        Raises:
            RetryableError: librdkafka is not ready for it.
        """
        self.pause([partition])
        try:
            self._consumer.incremental_assign([ck.TopicPartition(self._topic, partition, offset)])
        except ck.KafkaException as error:
            raise RetryableError(f"can't read partition {partition} from {offset}: {error}") from error
        self._reading.add(partition)

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop reading, and forget what was fetched, but stay a member of the group."""
        numbers = set(partitions)
        if places := self._places(numbers):
            self._consumer.incremental_unassign(places)
            self._reading -= numbers

    def _places(self, partitions: Iterable[int]) -> list[ck.TopicPartition]:
        """Those of the partitions that are being read."""
        return [ck.TopicPartition(self._topic, p) for p in partitions if p in self._reading]

    # -- records -----------------------------------------------------------------------------------------

    def read(self, call_events: int, batch_events: int, wait_s: float) -> Polled | None:
        """Collect up to `batch_events` records; waits only for the first one.

        Raises:
            StoppedError: the offset that the ledger names is gone from the topic.
            ConfigurationError: this client may not read the topic.
        """
        messages: list[ck.Message] = []
        times: list[tuple[int, int]] = []  # (records, when Kafka got the first of them), per call
        # consume() would wait for all that it is asked for: wait for one, then take those that came with it.
        call, timeout_s = 1, wait_s
        while len(messages) < batch_events:
            got = self._consumer.consume(call, timeout_s)
            asked_more = len(got) == call
            call, timeout_s = call_events, GATHER_S
            if any(map(ck.Message.error, got)):
                got = [message for message in got if not self._is_error(message)]
            if got:
                messages += got
                times.append((len(got), got[0].timestamp()[1]))
            if not asked_more:
                break
        return self._polled(messages, times) if messages else None

    def _polled(self, messages: list[ck.Message], times: list[tuple[int, int]]) -> Polled:
        """One time per call rather than per record: that would cost a tenth of the reading."""
        count = len(messages)
        records = Records(
            values=list(map(ck.Message.value, messages)),
            keys=list(map(ck.Message.key, messages)),
            partitions=np.fromiter(map(ck.Message.partition, messages), np.int32, count),
            offsets=np.fromiter(map(ck.Message.offset, messages), np.int64, count),
            times_ms=np.repeat([ms for _, ms in times], [records for records, _ in times]),
        )
        ends = {
            int(p): int(np.flatnonzero(records.partitions == p)[-1]) for p in np.unique(records.partitions)
        }
        return Polled(records, {p: messages[end].timestamp()[1] for p, end in ends.items()})

    def end_offset(self, partition: int) -> int | None:
        """The end of a partition that is being read, as last heard from the broker; None before that."""
        if partition not in self._reading:
            return None
        _, high = self._consumer.get_watermark_offsets(ck.TopicPartition(self._topic, partition), cached=True)
        return high if high >= 0 else None

    def commit(self, offsets: dict[int, int]) -> None:
        """Tell Kafka, best effort: lag tools read it, we never do."""
        places = [ck.TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except ck.KafkaException as error:
            log.debug("kafka_commit_failed", error=str(error))

    def _is_error(self, message: ck.Message) -> bool:
        """Sort a message that is none: raise what can't pass by itself."""
        error = message.error()
        if error is None:
            return False
        if error.code() in OFFSETS_GONE:
            raise StoppedError(
                f"Partition {message.partition()} no longer holds the offset that the ledger names ({error.str()}):"
                " retention has passed it, or the topic was made anew. Events are lost: begin a new epoch with"
                " `cdc-consumer reinit`, then run `backfill verify --repair`."
            )
        if error.code() in REFUSED:
            raise ConfigurationError(
                f"Kafka refuses: {error.str()}. Grant READ on topic and group to this client."
            )
        if error.fatal():
            raise WideTableError(
                f"The Kafka client can't go on: {error.str()}. A new process gets a new client."
            )
        if error.code() not in PASSING:
            log.warning("kafka_error", error=error.str())
        return True

    def _complain(self, error: ck.KafkaError) -> None:
        """Librdkafka says the same many times a second while a broker is away: once in a while is enough."""
        now = time.monotonic()
        if now - self._complained.get(error.code(), -COMPLAINT_S) >= COMPLAINT_S:
            self._complained[error.code()] = now
            log.warning("kafka_client", error=error.str(), fatal=error.fatal())

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()
