"""A topic, a ledger and a clock in memory, for tests of the consumer's loop.

The fakes keep the promises of the real parts (`tests/integration` proves those) and can break off anywhere.
A record's value is one sample as JSON, or one of the words `dead`, `filtered`, `truncate`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from cdc_consumer.assembly import Assembly, HoldLimits
from cdc_consumer.consumer import Consumer
from cdc_consumer.decoder import Decoder, TruncateError
from cdc_consumer.meter import Meter
from cdc_consumer.metrics import Snapshot
from cdc_consumer.records import Records
from cdc_consumer.settings import ConsumerSettings
from cdc_consumer.source import Polled, Source
from cdc_consumer.target import PartitionBatch, Target
from tests.narrow_batches import narrow_batch
from widetable.applied import Applied
from widetable.errors import FenceLostError, RetryableError
from widetable.ledger import Claim
from widetable.narrow import DeadCell, Decoded

START_S = 1_000.0
HOLD_MS = 200


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now_s: float = START_S

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now_s


@dataclass
class Topic:
    """Records per partition; `grow` appends one and returns its offset."""

    records: defaultdict[int, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    step: int = 1  # more than 1: offsets have gaps
    markers: int = 0  # offsets at the end that hold no record

    def grow(self, partition: int, value: str | dict[str, Any]) -> int:
        """Append a record."""
        text = value if isinstance(value, str) else json.dumps(value)
        offset = self.step * len(self.records[partition])
        self.records[partition].append((offset, text.encode()))
        return offset

    def end(self, partition: int) -> int:
        """The offset that the next record would get at the earliest."""
        records = self.records[partition]
        return (records[-1][0] + 1 if records else 0) + self.markers


class FakeSource:
    """A group member: what is assigned but not started is not read, as with the real one."""

    def __init__(self, topic: Topic, world: World) -> None:
        self._topic, self._world = topic, world
        self.assigned: Callable[[list[int]], None]
        self.revoked: Callable[[list[int]], None]
        self.reading: dict[int, int] = {}  # next offset of each partition that is not paused
        self.started: list[tuple[int, int]] = []
        self.committed: dict[int, int] = {}
        self.reads = 0
        self.waits: list[float] = []
        self.before_read: list[Callable[[], None]] = []  # what the group does within the next read
        self.skips = 0  # records that the next read leaves out at its start, as a broken client would
        self.leaks: list[int] = []  # partitions whose records arrive although they are not being read
        self.closed = False

    def read(self, call_events: int, batch_events: int, wait_s: float) -> Polled | None:
        """All that is there, up to `batch_events`."""
        assert call_events > 0
        self.reads += 1
        self.waits.append(wait_s)
        while self.before_read:
            self.before_read.pop(0)()
        rows: list[tuple[int, int, bytes]] = []
        for partition in [*self.reading, *self.leaks]:
            start = self.reading.get(partition, 0)
            found = [(o, v) for o, v in self._topic.records[partition] if o >= start]
            found, self.skips = found[self.skips :][: max(0, batch_events - len(rows))], 0
            rows += [(partition, offset, value) for offset, value in found]
            if found and partition in self.reading:
                self.reading[partition] = found[-1][0] + 1
        return self._polled(rows) if rows else None

    def _polled(self, rows: list[tuple[int, int, bytes]]) -> Polled:
        now_ms = int(self._world.clock() * 1000)
        records = Records(
            [value for _, _, value in rows],
            [b"key"] * len(rows),
            np.array([partition for partition, _, _ in rows], np.int32),
            np.array([offset for _, offset, _ in rows], np.int64),
            np.full(len(rows), now_ms),
        )
        return Polled(records, dict.fromkeys((partition for partition, _, _ in rows), now_ms))

    def start(self, partition: int, offset: int) -> None:
        """Seek and resume."""
        self.started.append((partition, offset))
        self.reading[partition] = offset

    def pause(self, partitions: list[int]) -> None:
        """Stop reading."""
        for partition in partitions:
            self.reading.pop(partition, None)

    def end_offset(self, partition: int) -> int | None:
        """The partition's end."""
        return self._topic.end(partition)

    def commit(self, offsets: dict[int, int]) -> None:
        """Kafka must never be told more than the ledger knows."""
        for partition, offset in offsets.items():
            assert offset <= self._world.ledger.rows[partition].next_offset
        self.committed |= offsets

    def close(self) -> None:
        """Leave the group: what is assigned is revoked."""
        self.closed = True
        self.revoked(list(self.reading))


class FakeDecoder:
    """Reads the words that stand for Avro."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.meanwhile: Callable[[], None] = lambda: None  # what happens while a batch is decoded
        self.schemas_known = 1
        self.seen: list[tuple[int, int]] = []

    def decode(self, records: Records) -> Decoded:
        """Samples, dead cells and filtered events, as the values say."""
        self.meanwhile()
        if self.error:
            raise self.error
        samples, dead, filtered = [], [], 0
        for value, partition, offset in zip(
            records.values, records.partitions.tolist(), records.offsets.tolist(), strict=True
        ):
            self.seen.append((partition, offset))
            match value:
                case b"truncate":
                    raise TruncateError(partition, offset)
                case b"dead":
                    dead.append(DeadCell("not_avro", "no frame", partition, offset))
                case b"filtered":
                    filtered += 1
                case _:
                    samples.append({**json.loads(value or b"{}"), "partition": partition, "offset": offset})
        return Decoded(narrow_batch(samples), dead, {"placeholder": filtered} if filtered else {})


@dataclass
class LedgerRow:
    """A row of the offset ledger."""

    fence: int = 0
    batch_no: int = 0
    next_offset: int = 0


@dataclass
class Ledger:
    """The target database: the ledger's rows and what was written together with them."""

    rows: defaultdict[int, LedgerRow] = field(default_factory=lambda: defaultdict(LedgerRow))
    batches: list[tuple[int, list[int], list[int]]] = field(default_factory=list)

    def claim(self, partition: int) -> Claim:
        """Raise the fence."""
        row = self.rows[partition]
        row.fence += 1
        return Claim(partition, row.fence, row.batch_no, row.next_offset)

    def apply(self, claim: Claim, batch: PartitionBatch) -> Claim:
        """Write a batch and move the chain on, in one step; it never goes back."""
        row = self.rows[claim.partition]
        if (row.fence, row.batch_no) != (claim.fence, claim.batch_no):
            raise FenceLostError(f"partition {claim.partition} belongs to somebody else now")
        assert batch.to >= row.next_offset
        row.batch_no, row.next_offset = row.batch_no + 1, batch.to
        offsets = batch.samples.column("offset").to_pylist()
        assert set(batch.samples.column("partition").to_pylist()) <= {claim.partition}
        self.batches.append((claim.partition, offsets, [cell.offset for cell in batch.dead]))
        return Claim(claim.partition, row.fence, row.batch_no, row.next_offset)

    def applied(self, partition: int) -> list[int]:
        """The offsets of all samples written, in order."""
        return [offset for p, offsets, _ in self.batches if p == partition for offset in offsets]

    def dead(self, partition: int) -> list[int]:
        """The offsets of all dead cells written, in order."""
        return [offset for p, _, dead in self.batches if p == partition for offset in dead]


class FakeTarget:
    """A session on the ledger's database; `fails` and `fails_after` break off one call each."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.is_open = False
        self.opened = 0
        self.attempts = 0
        self.down: Exception | None = None  # open fails
        self.fails: list[Exception] = []  # apply fails, nothing is written
        self.fails_after: list[Exception] = []  # apply fails, but all is written

    def open(self) -> None:
        """Connect."""
        self.opened += 1
        if self.down:
            raise self.down
        self.is_open = True

    def close(self) -> None:
        """Disconnect."""
        self.is_open = False

    def claim(self, partition: int) -> Claim:
        """Become the owner."""
        assert self.is_open
        return self._ledger.claim(partition)

    def apply(self, claim: Claim, batch: PartitionBatch) -> tuple[Claim, Applied]:
        """One transaction."""
        assert self.is_open
        self.attempts += 1
        if self.fails:
            raise self.fails.pop(0)
        advanced = self._ledger.apply(claim, batch)
        if self.fails_after:
            raise self.fails_after.pop(0)
        return advanced, Applied(events=batch.samples.num_rows, applied=batch.samples.num_rows)


class Membership:
    """What Kafka does to a member of the group, whose `source` is a fake."""

    source: FakeSource

    def _make_source(
        self, assigned: Callable[[list[int]], None], revoked: Callable[[list[int]], None]
    ) -> Source:
        self.source.assigned, self.source.revoked = assigned, revoked
        return cast("Source", self.source)

    def assign(self, *partitions: int) -> None:
        """Kafka gives partitions, within the next read."""
        self.source.before_read.append(lambda: self.source.assigned(list(partitions)))

    def revoke(self, *partitions: int) -> None:
        """Kafka takes partitions away, within the next read."""

        def take() -> None:
            self.source.pause(list(partitions))
            self.source.revoked(list(partitions))

        self.source.before_read.append(take)


class World(Membership):
    """A consumer among fakes."""

    def __init__(self, ledger: Ledger | None = None, topic: Topic | None = None, **settings: Any) -> None:
        self.clock = Clock()
        self.topic = topic or Topic()
        self.ledger = ledger or Ledger()
        self.source = FakeSource(self.topic, self)
        self.decoder = FakeDecoder()
        self.target = FakeTarget(self.ledger)
        self.counts = Snapshot()
        self.consumer = Consumer(
            ConsumerSettings(**settings),
            self._make_source,
            cast("Decoder", self.decoder),
            Assembly(HoldLimits(HOLD_MS, 5_000, 1_000, 1 << 30)),
            cast("Target", self.target),
            Meter(self.counts, self.clock, self.clock),
            self.clock,
        )

    def sample(self, partition: int = 0, moment: int = 0, **more: Any) -> int:
        """A record of one cell; returns its offset. Each partition carries one ship."""
        return self.topic.grow(
            partition, {"ship_id": f"SHIP{partition}", "created_time": moment, "record_ms": 0, **more}
        )

    def wait(self, for_ms: float) -> None:
        """Let time go by."""
        self.clock.now_s += for_ms / 1000

    def step(self, after_ms: float = 0) -> None:
        """One round, some time later."""
        self.wait(after_ms)
        self.consumer.step(0.2)

    def settle(self, rounds: int = 6) -> None:
        """Rounds with silence in between: all that can be written is written."""
        for _ in range(rounds):
            self.step(after_ms=HOLD_MS)

    @contextmanager
    def outage(self, reason: str = "the target is away") -> Iterator[None]:
        """The target can't be reached for a while, and what is under way breaks off."""
        self.target.down = RetryableError(reason)
        self.target.fails.append(RetryableError(reason))
        yield
        self.target.down = None
        self.target.fails.clear()


def started(*partitions: int, **settings: Any) -> World:
    """A world whose consumer has claimed these partitions."""
    world = World(**settings)
    world.assign(*partitions)
    world.step()
    world.step()
    assert world.consumer.ready
    return world
