"""The change topic: created or described, and asked for its end offsets.

In: a topic's name and the shape it should have. Out: its id, partitions and policies as they are. Guarantee:
every call is bounded in time, and what the cluster refuses is told apart from a cluster that is away.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from cdc_consumer.settings import KafkaSettings, TopicSettings
from widetable.errors import ConfigurationError, UnreachableError, WideTableError

REFUSED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - a public code; librdkafka marks its own ones so
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG,
    }
)
"""What no retry cures."""

UNTRUSTED: Final = ("uthentication", "certificate verify failed", "ssl.ca.location")
"""What librdkafka says on its own of a wrong login or authority, while it reports brokers that are away."""

PASSING: Final = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - as above
    }
)
"""What a topic answers just after it or a partition was made, or while its leader moves."""

POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is. `retention_ms` is -1 where events are kept for ever."""

    name: str
    topic_id: str
    partitions: int
    cleanup_policy: str
    retention_ms: int


class Topics:
    """The cluster's topics, through librdkafka's admin client."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._timeout_s = settings.request_timeout_s
        self._complaint = ""  # the last thing librdkafka said on its own, e.g. why brokers are unreachable
        # log_level 0: it would write the same to stderr, beside the one line that we raise.
        self._config = settings.client(log_level=0, error_cb=self._listen)
        self._client: AdminClient | None = None

    @property
    def _admin(self) -> AdminClient:
        """The client; made anew after an error.

        librdkafka's goes on asking with the leader epoch that it heard before a broker was restarted, and is
        refused for ever.
        """
        if self._client is None:
            self._client = AdminClient(self._config)
        return self._client

    def describe(self, name: str) -> Topic | None:
        """The topic, or None when there is none of that name."""
        with self._errors():
            try:
                found = self._describe(name)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    return None
                raise
        return found

    def create(self, name: str, shape: TopicSettings) -> None:
        """Create a topic that keeps every event until its retention.

        The Kafka key is the ship, not the row: compaction would lose nearly all events.
        """
        config = {"cleanup.policy": "delete", "retention.ms": str(shape.retention_ms)}
        topic = NewTopic(name, shape.partitions, shape.replication_factor, config=config)
        with self._errors():
            self._admin.create_topics([topic], request_timeout=self._timeout_s)[name].result()

    def end_offsets(self, name: str, partitions: Iterable[int]) -> dict[int, int]:
        """The offset after the last record of each partition."""
        return self._offsets(name, partitions, OffsetSpec.latest())

    def held_offsets(self, name: str, partitions: Iterable[int]) -> dict[int, range]:
        """The offsets that each partition holds: from what retention has left to the end."""
        numbers = list(partitions)
        first = self._offsets(name, numbers, OffsetSpec.earliest())
        end = self.end_offsets(name, numbers)
        return {number: range(first[number], end[number]) for number in numbers}

    def _offsets(self, name: str, partitions: Iterable[int], which: OffsetSpec) -> dict[int, int]:
        wanted = {TopicPartition(name, partition): which for partition in partitions}
        deadline = time.monotonic() + self._timeout_s
        with self._errors():
            while True:
                try:
                    return self._list_offsets(wanted)
                except KafkaException as error:
                    if error.args[0].code() not in PASSING or time.monotonic() > deadline:
                        raise
                self._client = None  # librdkafka's cache would not know a partition just made for minutes
                time.sleep(POLL_S)

    def add_partitions(self, name: str, partitions: int, *, only_try: bool = False) -> None:
        """Raise the number of partitions; `only_try` asks whether the cluster would."""
        wanted = NewPartitions(name, partitions)
        with self._errors():
            self._admin.create_partitions([wanted], request_timeout=self._timeout_s, validate_only=only_try)[
                name
            ].result()

    def broker_count(self) -> int:
        """How many brokers the cluster has: the cheapest proof that it answers."""
        with self._errors():
            return len(self._admin.list_topics(timeout=self._timeout_s).brokers)

    def _list_offsets(self, wanted: dict[TopicPartition, OffsetSpec]) -> dict[int, int]:
        futures = self._admin.list_offsets(wanted, request_timeout=self._timeout_s)
        return {asked.partition: int(future.result().offset) for asked, future in futures.items()}

    def _describe(self, name: str) -> Topic:
        asked = TopicCollection([name])
        found = self._admin.describe_topics(asked, request_timeout=self._timeout_s)[name].result()
        resource = ConfigResource(ResourceType.TOPIC, name)
        futures = self._admin.describe_configs([resource], request_timeout=self._timeout_s)
        config = futures[resource].result()
        return Topic(
            name=name,
            topic_id=str(found.topic_id),
            partitions=len(found.partitions),
            cleanup_policy=config["cleanup.policy"].value,
            retention_ms=int(config["retention.ms"].value),
        )

    def _listen(self, complaint: KafkaError) -> None:
        self._complaint = complaint.str()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            self._admin.poll(0)  # a synchronous call leaves librdkafka's complaints waiting
            self._client = None
            raise kafka_error(error, self._complaint) from error


def kafka_error(error: KafkaException, complaint: str = "") -> WideTableError:
    """The error of ours behind one of librdkafka's; `complaint` is what it said on its own before."""
    cause = error.args[0] if error.args else None
    if not isinstance(cause, KafkaError):
        return UnreachableError(f"Kafka: {error}")
    reason = cause.str() + (f" ({complaint})" if complaint and complaint != cause.str() else "")
    if cause.code() in REFUSED or any(part in complaint for part in UNTRUSTED):
        return ConfigurationError(
            f"Kafka refuses: {reason}. Check CDC_KAFKA__SASL_…, CDC_KAFKA__SSL_CA_LOCATION and the user's rights"
        )
    return UnreachableError(
        f"Kafka does not answer: {reason}. Is it up, and is CDC_KAFKA__BOOTSTRAP_SERVERS right?"
    )
