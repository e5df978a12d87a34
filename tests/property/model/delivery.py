"""Source, stream, two consumers and slices around one target, stepped by hand; what must hold once all is at rest.

The consumers are the product's: loop, assembly and decoder on real Avro. Kafka and the target are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, cast

import pyarrow as pa

from cdc_consumer.assembly import Assembly, HoldLimits
from cdc_consumer.consumer import Consumer
from cdc_consumer.decoder import Decoder
from cdc_consumer.meter import Meter
from cdc_consumer.metrics import Snapshot
from cdc_consumer.records import Records
from cdc_consumer.settings import ConsumerSettings
from cdc_consumer.source import Polled
from cdc_consumer.target import PartitionBatch, Target
from tests.consumer_world import HOLD_MS, Clock, FakeSource, Membership, Topic
from tests.consumer_world import World as ConsumerWorld
from tests.debezium_events import EPOCH, PLACEHOLDER, Schemas, decoder, key
from tests.narrow_batches import narrow_batch
from tests.property.model.cell import UNKNOWN
from tests.property.model.database import Cells, Database, Point, Safeguards, require
from tests.property.model.source_table import SHIPS, Key, SourceTable
from widetable.applied import Applied
from widetable.errors import RetryableError, StoppedError
from widetable.ledger import Claim
from widetable.narrow import Decoded, Op

PARTITIONS: Final = range(len(SHIPS))
MOMENTS: Final = (0, 1)  # a slice each
REST_ROUNDS: Final = 60
RECORD_KEY: Final = key()
POISON: Final = b"no Avro"


class KilledError(Exception):
    """The process ends where it stands."""


class KeyedSource(FakeSource):
    """A group member whose records have real keys."""

    def _polled(self, rows: list[tuple[int, int, bytes]]) -> Polled:
        polled = super()._polled(rows)
        return replace(polled, records=replace(polled.records, keys=[RECORD_KEY] * len(rows)))


class CountingDecoder:
    """The product's decoder; every record must end as rows, one dead cell, or one filtered event."""

    def __init__(self, placeholder: str) -> None:
        self._decoder = decoder()
        if placeholder != PLACEHOLDER:
            self._decoder = type(self._decoder)(Schemas(), placeholder, self._decoder._epochs)

    def decode(self, records: Records) -> Decoded:
        """Decode, and count."""
        decoded = self._decoder.decode(records)
        places = zip(
            *(decoded.batch.column(name).to_pylist() for name in ("partition", "offset")), strict=True
        )
        ended = len(set(places)) + len(decoded.dead) + sum(decoded.filtered.values())
        require(ended == len(records), "I5", f"{len(records)} records became {decoded}")
        return decoded


class HastyAssembly(Assembly):
    """Without the low-water mark."""

    def low_water(self, partition: int) -> int | None:  # noqa: ARG002 - the product's signature
        """Nothing is held, it says."""
        return None


class Session:
    """A consumer's way to the database: breaks off, or hangs, where it was told to."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.fails: dict[Point, Exception] = {}
        self.asleep: list[
            Callable[[], None]
        ] = []  # what goes on while the process is stopped before its batch

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """Disconnect."""

    def claim(self, partition: int) -> Claim:
        """Become the owner."""
        return self._database.claim(partition)

    def apply(self, claim: Claim, batch: PartitionBatch) -> tuple[Claim, Applied]:
        """One transaction."""
        while self.asleep:
            self.asleep.pop(0)()
        return self._database.transact(claim, batch, self._reach)

    def _reach(self, point: Point) -> None:
        if point in self.fails:
            raise self.fails.pop(point)


class Member(Membership):
    """A consumer process."""

    def __init__(self, world: Delivery, topic: Topic) -> None:
        self.clock, self.ledger = world.clock, world.database
        self.target = Session(world.database)
        self.source = KeyedSource(topic, cast("ConsumerWorld", self))
        self.counts = Snapshot()
        self.in_round = False
        limits = HoldLimits(HOLD_MS, 5_000, 12, 1 << 30)
        self.consumer = Consumer(
            ConsumerSettings(batch_events=4),
            self._make_source,
            cast("Decoder", world.decoder),
            Assembly(limits) if world.guard.low_water else HastyAssembly(limits),
            cast("Target", self.target),
            Meter(self.counts, self.clock, self.clock),
            self.clock,
        )


@dataclass
class Job:
    """A worker with a slice that it has read."""

    moment: int
    attempt: int
    batch: pa.RecordBatch
    begun: Cells | None = None  # what the target held when its statement began


@dataclass
class Slice:
    """A row of the slice ledger."""

    attempt: int = 0
    done: bool = False


class Delivery:
    """All of it."""

    def __init__(self, safeguards: Safeguards) -> None:
        self.guard = safeguards
        self.clock = Clock()
        self.source = SourceTable()
        self.topic = Topic()
        self.published = 0
        self.database = Database(safeguards)
        self.decoder = CountingDecoder(PLACEHOLDER if safeguards.placeholders_pass else "never sent")
        self.members = [Member(self, self.topic) for _ in range(2)]
        self.owner = [0 for _ in PARTITIONS]
        self.unheard: list[tuple[int, int]] = []  # (member, partition): lost, and not told yet
        self.slices = [Slice() for _ in MOMENTS]
        self.jobs: list[Job] = []
        self.copied: list[pa.RecordBatch] = []
        self.members[0].assign(*PARTITIONS)

    # -- stream ---------------------------------------------------------------------------------------------

    def publish(self, count: int) -> None:
        """Debezium goes on in the WAL."""
        end = min(len(self.source.wal), self.published + count)
        for message in self.source.wal[self.published : end]:
            self._append(message.partition, message.value)
        self.published = end

    def poison(self, partition: int) -> None:
        """A record that nobody can read."""
        self._append(partition, POISON)

    def _append(self, partition: int, value: bytes) -> None:
        self.topic.records[partition].append((len(self.topic.records[partition]), value))

    def reconnect(self, transactions: int) -> None:
        """Connect is restarted, and begins again some transactions back: a suffix comes twice."""
        slot = self.source.slot or 0
        starts = [slot, *(start for start in self.source.starts if slot <= start <= self.published)]
        self.published = starts[max(0, len(starts) - 1 - transactions)]

    # -- consumers ------------------------------------------------------------------------------------------

    def step(self, number: int, after_ms: int) -> None:
        """A round of one process, which may be its last; one that is stopped within a round does nothing."""
        self.clock.now_s += after_ms / 1000
        member = self.members[number]
        if member.in_round:
            return
        member.in_round = True
        try:
            member.consumer.step(0.2)
        except (KilledError, StoppedError):  # a rival is a reason to stop; the supervisor starts it again
            self.restart(number)
        finally:
            member.in_round = False

    def restart(self, number: int) -> None:
        """A process is killed, and another takes its place in the group."""
        self.members[number] = Member(self, self.topic)
        self.unheard = [(member, partition) for member, partition in self.unheard if member != number]
        self.members[number].assign(*(p for p in PARTITIONS if self.owner[p] == number))

    def hand_over(self, partition: int, *, told: bool) -> None:
        """Kafka gives a partition to the other member; the one that had it may not know yet."""
        old = self.owner[partition]
        self.owner[partition] = 1 - old
        self.unheard = [lost for lost in self.unheard if lost != (1 - old, partition)]
        self.members[1 - old].revoke(partition)
        self.members[1 - old].assign(partition)
        self.unheard.append((old, partition))
        if told:
            self.tell()

    def tell(self) -> None:
        """The members hear which partitions they have lost."""
        for number, partition in self.unheard:
            self.members[number].revoke(partition)
        self.unheard = []

    def sleep(self, number: int, partition: int, rounds: list[int]) -> None:
        """Before its next batch the process is stopped; the group goes on without it, and it wakes up."""

        def meanwhile() -> None:
            if self.owner[partition] == number:
                self.hand_over(partition, told=False)
            for after_ms in rounds:
                self.step(1 - number, after_ms)

        self.members[number].target.asleep.append(meanwhile)

    # -- history ----------------------------------------------------------------------------------------------

    def read_slice(self, moment: int) -> None:
        """A worker claims a slice that is not done, and reads it in a snapshot past the barrier."""
        slice_ = self.slices[moment]
        if slice_.done or (self.guard.barrier and not self.source.barrier):
            return
        slice_.attempt += 1
        samples = [
            {
                "ship_id": key.ship,
                "channel_id": key.channel,
                "created_time": key.moment_us,
                "value_format": "String",
                "str_v": value,
                "op": int(Op.READ),
                "partition": -1,
                "offset": -1,
            }
            for key, value in self.source.seen.items()
            if key.moment_us == moment
        ]
        self.jobs.append(Job(moment, slice_.attempt, narrow_batch(samples)))

    def begin_slice(self, number: int) -> None:
        """The worker's statement takes its snapshot of the target, and then waits for row locks."""
        if self.jobs:
            self.jobs[number % len(self.jobs)].begun = dict(self.database.cells)

    def write_slice(self, number: int, *, killed: bool = False) -> None:
        """Data and ledger row, if the slice is still this worker's."""
        if not self.jobs:
            return
        job = self.jobs.pop(number % len(self.jobs))
        slice_ = self.slices[job.moment]
        if killed or slice_.done or slice_.attempt != job.attempt:
            return
        self.database.copy_in(job.batch, job.begun if job.begun is not None else self.database.cells)
        self.copied.append(job.batch)
        slice_.done = True

    # -- corrections ------------------------------------------------------------------------------------------

    def correct(self, key: Key) -> None:
        """`backfill import` of one cell."""
        value, lsn = self.source.correct(key)
        cell = {"ship_id": key.ship, "channel_id": key.channel, "created_time": key.moment_us}
        more = {
            "value_format": "String",
            "str_v": value,
            "op": int(Op.CORRECTION),
            "epoch": EPOCH,
            "lsn": lsn,
        }
        origin = {"partition": -1, "offset": -1}
        self.database.copy_in(narrow_batch([cell | more | origin]), self.database.cells)

    # -- at rest ----------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """No more changes: everything that is under way comes to its end, without a hand."""
        self.source.show()
        while self.jobs:
            self.write_slice(0)
        for moment in MOMENTS:
            self.read_slice(moment)
            self.write_slice(0)
        require(all(slice_.done for slice_ in self.slices), "I6", "a slice is not done")
        self.publish(len(self.source.wal))
        self.tell()
        for _ in range(REST_ROUNDS):
            for number in range(len(self.members)):
                self.step(number, 1_500)
            if self._drained(self.database, self.members):
                return
        require(False, "I6", f"{dict(self.database.rows)} after {REST_ROUNDS} rounds")

    def _drained(self, database: Database, members: list[Member]) -> bool:
        at_end = all(database.rows[p].next_offset == self.topic.end(p) for p in PARTITIONS)
        idle = all(member.consumer.ready and not member.source.before_read for member in members)
        return at_end and idle and not any(member.consumer._assembly.held_rows for member in members)

    def check(self) -> None:
        """The target is the source, every record is accounted for, and doing all of it again writes nothing."""
        self.check_cells()
        for partition in PARTITIONS:
            dead = {offset for offset, value in self.topic.records[partition] if value == POISON}
            require(set(self.database.dead(partition)) == dead, "I5", f"dead cells of partition {partition}")
        total = self.database.applied_total
        require(total.balanced and total.events == self.database.events, "I5", total)
        changes = self.database.changes
        self.replay()
        require(self.database.changes == changes, "I3", "a replay rewrites cells")
        self.check_cells()

    def check_cells(self) -> None:
        """Cell by cell."""
        rows, cells = self.source.rows | self.source.corrected, self.database.cells
        for place in {*rows, *cells}:
            wanted, found = rows.get(place), cells.get(place, UNKNOWN)
            detail = f"{place} is {found}, and {wanted!r} at the source"
            require(wanted is None or found.value is not None, "I1", detail)
            require(wanted is not None or found.value is None, "I2", detail)
            require(wanted == found.value, "I3", detail)

    def replay(self) -> None:
        """Slices and the whole topic once more, as if the ledger had been lost."""
        for batch in self.copied:
            self.database.copy_in(batch, self.database.cells)
        for row in self.database.rows.values():
            row.next_offset = 0
        member = Member(self, self.topic)
        member.assign(*PARTITIONS)
        for _ in range(REST_ROUNDS):
            self.clock.now_s += 1.5
            member.consumer.step(0.2)
            if self._drained(self.database, [member]):
                return
        require(False, "I6", "the replay does not end")


def outage(*, kill: bool) -> Exception:
    """What breaks off a transaction: the process's end, or the connection's."""
    return KilledError() if kill else RetryableError("connection lost")
