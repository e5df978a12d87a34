"""Reading from a real broker: where to start is the ledger's to say, and members hand partitions over cleanly."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from cdc_consumer.source import Polled, Source
from devstack.stack import Stack
from widetable.errors import StoppedError

pytestmark = pytest.mark.stack

PARTITIONS = 4
RECORDS = 20
PROTOCOLS: dict[str, dict[str, Any]] = {
    "classic": {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 6_000},
    "consumer": {"group.protocol": "consumer"},
}
both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS, ids=["classic", "KIP-848"])


class Topic:
    """A topic of this test, with `RECORDS` records in each partition."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.name = f"test_{secrets.token_hex(6)}"
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})

    def create(self) -> None:
        """Create it and fill it."""
        self.admin.create_topics([NewTopic(self.name, PARTITIONS, 1)])[self.name].result()
        self.produce(range(PARTITIONS), RECORDS)

    def produce(self, partitions: Any, count: int, **more: Any) -> None:
        """Append records; each value names its partition."""
        for partition in partitions:
            for _ in range(count):
                self._producer.produce(self.name, f"{partition}", "key", partition, **more)
        self._producer.flush(10)

    def delete_before(self, partition: int, offset: int) -> None:
        """What retention does."""
        place = TopicPartition(self.name, partition, offset)
        self.admin.delete_records([place])[place].result()

    def committed(self, group: str) -> dict[int, int]:
        """What lag tools see."""
        asked = ConsumerGroupTopicPartitions(group)
        found = self.admin.list_consumer_group_offsets([asked])[group].result()
        return {place.partition: place.offset for place in found.topic_partitions or []}


class Member:
    """A `Source` and what it was told and has read."""

    def __init__(self, topic: Topic, group: str, protocol: str, start_at: int | None, **config: Any) -> None:
        self.assigned: set[int] = set()
        self.calls: list[tuple[str, frozenset[int]]] = []
        self.offsets: dict[int, list[int]] = {}
        self._start_at = start_at
        self._to_start: list[int] = []
        settings = {"bootstrap.servers": topic.bootstrap, "group.id": group, **PROTOCOLS[protocol], **config}
        self.source = Source(settings, topic.name, self._on_assigned, self._on_revoked)

    def _on_assigned(self, partitions: list[int]) -> None:
        self.calls.append(("assigned", frozenset(partitions)))
        self.assigned |= set(partitions)
        self._to_start += partitions

    def _on_revoked(self, partitions: list[int]) -> None:
        self.calls.append(("revoked", frozenset(partitions)))
        self.assigned -= set(partitions)
        self._to_start = [p for p in self._to_start if p not in partitions]

    def read(self, wait_s: float = 0.1) -> Polled | None:
        """One read; newly assigned partitions are started afterwards, as the consumer does."""
        polled = self.source.read(5_000, 50_000, wait_s)
        if polled is not None:
            records = polled.records
            for partition, offset in zip(records.partitions.tolist(), records.offsets.tolist(), strict=True):
                self.offsets.setdefault(partition, []).append(offset)
        if self._start_at is not None:
            while self._to_start:
                self.source.start(self._to_start.pop(), self._start_at)
        return polled

    def give_up_some(self, chance: random.Random) -> None:
        """An outage: nothing is read any more, and some of it is started again at once."""
        if chance.random() < 0.3:
            self.source.pause(range(PARTITIONS))
            for partition in chance.sample(sorted(self.assigned), len(self.assigned) // 2):
                self.source.start(partition, chance.randrange(RECORDS))

    @property
    def revoked(self) -> set[int]:
        """All partitions that were ever taken away."""
        return {partition for what, which in self.calls if what == "revoked" for partition in which}

    @property
    def read_count(self) -> int:
        """How many records were read."""
        return sum(map(len, self.offsets.values()))


def read_until(condition: Callable[[], object], *members: Member, timeout_s: float = 60.0) -> None:
    """Let the members read in turn until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, [(member.calls, member.offsets) for member in members]
        for member in members:
            member.read()


@pytest.fixture
def topic(stack: Stack) -> Iterator[Topic]:
    """A topic of four partitions with twenty records each."""
    topic = Topic(stack.kafka.bootstrap)
    topic.create()
    yield topic
    topic.admin.delete_topics([topic.name])[topic.name].result()


@contextmanager
def member(
    topic: Topic, protocol: str = "classic", group: str = "", start_at: int | None = None, **config: Any
) -> Iterator[Member]:
    """A member of the group, by default of one of its own."""
    joined = Member(topic, group or f"{topic.name}-alone", protocol, start_at, **config)
    try:
        yield joined
    finally:
        joined.source.close()


def has_all(joined: Member) -> Callable[[], bool]:
    """Whether every partition is the member's."""
    return lambda: joined.assigned == set(range(PARTITIONS))


# -- where reading starts ---------------------------------------------------------------------------------


@both_protocols
def test_an_assigned_partition_stays_silent_until_it_is_started(topic: Topic, protocol: str) -> None:
    """Its ledger row has not been claimed yet; also what is appended meanwhile stays where it is."""
    with member(topic, protocol) as reader:
        read_until(has_all(reader), reader)
        topic.produce([0, 1], 5)
        for _ in range(10):
            assert reader.read() is None
        reader.source.start(2, 0)
        read_until(lambda: reader.read_count >= RECORDS, reader)
        assert reader.offsets == {2: list(range(RECORDS))}


@both_protocols
def test_start_reads_from_exactly_that_offset(topic: Topic, protocol: str) -> None:
    """Each partition from its own, at the end, too: nothing before it and nothing left out."""
    starts = {0: 0, 1: 7, 2: RECORDS - 1, 3: RECORDS}
    with member(topic, protocol) as reader:
        read_until(has_all(reader), reader)
        for partition, offset in starts.items():
            reader.source.start(partition, offset)
        wanted = {p: list(range(offset, RECORDS + 3)) for p, offset in starts.items()}
        topic.produce(range(PARTITIONS), 3)
        read_until(lambda: reader.read_count >= sum(map(len, wanted.values())), reader)
        assert reader.offsets == wanted


@both_protocols
def test_after_a_pause_it_starts_again_wherever_it_is_told(topic: Topic, protocol: str) -> None:
    """An outage: paused while records lie in librdkafka's queue, then back to an earlier offset, many times."""
    with member(topic, protocol) as reader:
        read_until(has_all(reader), reader)
        for back_to in (0, 5, 19, 3, 0, 12):
            for partition in range(PARTITIONS):
                reader.source.start(partition, back_to)
            reader.source.read(1, 1, 10.0)
            reader.source.pause(range(PARTITIONS))
            for _ in range(3):
                assert reader.read() is None, "nothing of a paused partition comes out of the queue"
            for partition in range(PARTITIONS):
                reader.source.start(partition, back_to)
            reader.offsets.clear()
            wanted = {p: list(range(back_to, RECORDS)) for p in range(PARTITIONS)}
            read_until(lambda: reader.read_count >= PARTITIONS * (RECORDS - back_to), reader)  # noqa: B023 - used in this round only
            assert reader.offsets == wanted


@pytest.mark.parametrize("start_at", [4, RECORDS + 1], ids=["retention passed it", "beyond the end"])
def test_an_offset_that_is_gone_stops_the_consumer(topic: Topic, start_at: int) -> None:
    """Jumping to another offset would lose events silently; the message names the way out."""
    topic.delete_before(1, 5)
    with member(topic) as reader:
        read_until(has_all(reader), reader)
        reader.source.start(0, 0)
        reader.source.start(1, start_at)
        with pytest.raises(StoppedError, match=r"Partition 1 no longer holds.*new epoch"):
            read_until(lambda: False, reader)


def test_the_oldest_offset_that_is_left_is_fine(topic: Topic) -> None:
    """Retention came close, but not past the ledger."""
    topic.delete_before(1, 5)
    with member(topic) as reader:
        read_until(has_all(reader), reader)
        reader.source.start(1, 5)
        read_until(lambda: reader.read_count >= RECORDS - 5, reader)
        assert reader.offsets == {1: list(range(5, RECORDS))}


# -- what a read brings -------------------------------------------------------------------------------------


def test_records_carry_coordinates_and_times(topic: Topic) -> None:
    """Columns of one length; per partition in order; the newest time is each partition's own."""
    times_ms = {0: 1_000_000, 1: 5_000_000}
    for partition, ms in times_ms.items():
        topic.produce([partition], 1, timestamp=ms)
    with member(topic) as reader:
        read_until(has_all(reader), reader)
        for partition in times_ms:
            reader.source.start(partition, RECORDS)
        newest_ms: dict[int, int] = {}
        while newest_ms.keys() != times_ms.keys():
            polled = reader.read(10.0)
            assert polled is not None
            records = polled.records
            assert len(records.values) == len(records.keys) == len(records.offsets) == len(records.times_ms)
            assert [int(value or b"") for value in records.values] == records.partitions.tolist()
            assert set(records.keys) == {b"key"}
            assert records.times_ms.dtype == np.int64
            newest_ms |= polled.newest_ms
        assert newest_ms == times_ms


def test_a_read_does_not_wait_for_a_full_count(topic: Topic) -> None:
    """One record is there: it comes at once, not when the wait for five thousand is over."""
    with member(topic) as reader:
        read_until(has_all(reader), reader)
        reader.source.start(0, RECORDS - 1)
        began = time.monotonic()
        assert reader.read(wait_s=30.0) is not None
        assert time.monotonic() - began < 15


def test_a_read_takes_at_most_a_batch(topic: Topic) -> None:
    """The rest stays in the queue, and nothing is left out between two reads."""
    with member(topic, start_at=0) as reader:
        read_until(has_all(reader), reader)
        sizes: list[int] = []
        while sum(sizes) < PARTITIONS * RECORDS:
            polled = reader.source.read(7, 14, 10.0)
            assert polled is not None
            sizes.append(len(polled.records))
        assert max(sizes) <= 14 + 7
        assert sum(sizes) == PARTITIONS * RECORDS


def test_the_end_offset_is_known_once_records_came(topic: Topic) -> None:
    """What the lag is counted by; asked too early, it is unknown, not an error."""
    with member(topic) as reader:
        read_until(has_all(reader), reader)
        assert [reader.source.end_offset(p) for p in (0, PARTITIONS)] == [None, None]
        for partition in range(PARTITIONS):
            reader.source.start(partition, 0)
            assert reader.source.end_offset(partition) in (None, RECORDS)
        read_until(lambda: reader.read_count >= PARTITIONS * RECORDS, reader)
        assert [reader.source.end_offset(p) for p in range(PARTITIONS)] == [RECORDS] * PARTITIONS
        topic.produce([3], 5)
        read_until(lambda: reader.source.end_offset(3) == RECORDS + 5, reader)


@both_protocols
def test_a_commit_is_what_lag_tools_see(topic: Topic, protocol: str) -> None:
    """Kafka's own offsets are for them only: starting never looks at them."""
    group = f"{topic.name}-lag"
    with member(topic, protocol, group, start_at=0) as reader:
        read_until(has_all(reader), reader)
        reader.source.commit({0: 11, 2: 20})
        read_until(lambda: topic.committed(group) == {0: 11, 2: 20}, reader)
    with member(topic, protocol, group) as reader:
        read_until(has_all(reader), reader)
        reader.source.start(0, 3)
        read_until(lambda: reader.read_count >= RECORDS - 3, reader)
        assert reader.offsets == {0: list(range(3, RECORDS))}


def test_a_commit_that_kafka_refuses_is_no_error(topic: Topic) -> None:
    """It is a courtesy: a partition that is not ours any more, or a broker that is away."""
    with member(topic) as reader:
        reader.source.commit({0: 11})


# -- members of a group ---------------------------------------------------------------------------------------


@both_protocols
def test_two_members_share_the_partitions_and_hand_over(topic: Topic, protocol: str) -> None:
    """Joining takes some partitions and leaves the others reading; leaving gives them back."""
    group = f"{topic.name}-pair"
    with member(topic, protocol, group, start_at=0) as first:
        read_until(has_all(first), first)
        read_until(lambda: first.read_count == PARTITIONS * RECORDS, first)
        with member(topic, protocol, group, start_at=RECORDS) as second:
            read_until(lambda: len(second.assigned) == PARTITIONS // 2, first, second)
            kept, taken = first.assigned, second.assigned
            assert kept | taken == set(range(PARTITIONS))
            assert not kept & taken
            topic.produce(range(PARTITIONS), 5)
            read_until(
                lambda: first.read_count + second.read_count == PARTITIONS * (RECORDS + 5), first, second
            )
            assert second.offsets == {p: list(range(RECORDS, RECORDS + 5)) for p in taken}
            assert first.offsets == {p: list(range(RECORDS + 5 * (p in kept))) for p in range(PARTITIONS)}
            assert first.revoked == taken, "what stays is never revoked in between"
        read_until(has_all(first), first)
        assert second.assigned == set(), "a member that leaves is told that it owns nothing"


@both_protocols
def test_a_member_that_did_not_poll_loses_its_partitions_and_is_told(topic: Topic, protocol: str) -> None:
    """It slept past its time: another has them; with its next read it hears so and joins again."""
    group, limit = f"{topic.name}-sleeper", {"max.poll.interval.ms": 6_000}
    with member(topic, protocol, group, **limit) as sleeper:
        read_until(has_all(sleeper), sleeper)
        with member(topic, protocol, group, **limit) as other:
            read_until(has_all(other), other)
            assert sleeper.assigned == set(range(PARTITIONS)), "it can't know yet"
            read_until(lambda: sleeper.revoked == set(range(PARTITIONS)), sleeper, other)
            read_until(lambda: len(sleeper.assigned) == PARTITIONS // 2, sleeper, other)
            read_until(lambda: len(other.assigned) == PARTITIONS // 2, sleeper, other)
            assert not sleeper.assigned & other.assigned


@both_protocols
def test_more_members_than_partitions_leave_some_idle(topic: Topic, protocol: str) -> None:
    """An idle member reads nothing and fails nothing."""
    group = f"{topic.name}-crowd"
    with (
        member(topic, protocol, group, start_at=0) as a,
        member(topic, protocol, group, start_at=0) as b,
        member(topic, protocol, group, start_at=0) as c,
        member(topic, protocol, group, start_at=0) as d,
        member(topic, protocol, group, start_at=0) as e,
    ):
        crowd = (a, b, c, d, e)
        read_until(lambda: sorted(len(m.assigned) for m in crowd) == [0, 1, 1, 1, 1], *crowd)
        assert set().union(*(m.assigned for m in crowd)) == set(range(PARTITIONS))


@both_protocols
def test_members_that_do_not_read_hand_over_too(topic: Topic, protocol: str) -> None:
    """The target is away, so nothing is started, or all was given up: the group goes on working."""
    group = f"{topic.name}-outage"
    with member(topic, protocol, group) as first:
        read_until(has_all(first), first)
        for partition in (0, 1):
            first.source.start(partition, 0)
        first.source.pause(range(PARTITIONS))
        with member(topic, protocol, group) as second:
            read_until(lambda: len(second.assigned) == PARTITIONS // 2, first, second)
            read_until(lambda: len(first.assigned) == PARTITIONS // 2, first, second)
            assert not first.assigned & second.assigned
        read_until(has_all(first), first)
        assert first.read_count == 0
        first.source.start(3, 18)
        read_until(lambda: first.read_count >= 2, first)
        assert first.offsets == {3: [18, 19]}


@both_protocols
def test_a_storm_of_joins_leaves_and_outages_ends_in_order(topic: Topic, protocol: str) -> None:
    """Whatever is started, given up, taken and given in between: at last one member reads all, exactly."""
    chance = random.Random(7)
    group = f"{topic.name}-storm"
    with member(topic, protocol, group, start_at=0) as steady:
        for _ in range(4):
            with member(topic, protocol, group, start_at=chance.randrange(RECORDS)) as guest:
                wanted = chance.randrange(1, 3)
                while len(guest.assigned) < wanted:
                    for joined in (steady, guest):
                        joined.read(0.02)
                        joined.give_up_some(chance)
        read_until(has_all(steady), steady)
        for partition in range(PARTITIONS):
            steady.source.start(partition, 0)
        steady.offsets.clear()
        read_until(lambda: steady.read_count >= PARTITIONS * RECORDS, steady)
        assert steady.offsets == {p: list(range(RECORDS)) for p in range(PARTITIONS)}
