"""The loop of one consumer process: read, decode, hold, apply; pause and go on after every outage.

One plain serial loop. Its safety rests on three things done elsewhere: offsets live with the data
(`widetable.ledger`), the rule makes repetition harmless (`widetable.rule`), and what is held is read again by
whoever comes next, because the ledger never passes the lowest offset still held (`assembly`).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import structlog

from cdc_consumer.assembly import Assembly, Clock
from cdc_consumer.dead_limit import DeadLimit
from cdc_consumer.decoder import Decoder, TruncateError
from cdc_consumer.lateness import Lateness
from cdc_consumer.meter import Meter
from cdc_consumer.metrics import Snapshot
from cdc_consumer.records import Records
from cdc_consumer.settings import ConsumerSettings
from cdc_consumer.source import Polled, Source
from cdc_consumer.target import PartitionBatch, Target
from widetable.errors import FenceLostError, RetryableError, StoppedError, UnreachableError
from widetable.ledger import Claim
from widetable.narrow import DeadCell, Decoded, empty_batch

log = structlog.get_logger(__name__)

IDLE_WAIT_S: Final = 0.02
"""Longest wait for records while rows are held: bounds how late a quiet row is noticed."""
BACKOFF_S: Final = (0.2, 10.0)
CALM_S: Final = 30.0
"""After so long without an outage, the next one is the first of its kind again."""
RECLAIM_S: Final = 1.0
"""First pause before a lost partition is claimed again; doubles with each loss. A consumer that slept past its
session hears from Kafka in less than this that the partition is not its own any more."""
BELIEVED_JUMPS: Final = 100
"""After so many jumps that were read twice the topic is one that has gaps."""
RIVAL_LOSSES: Final = 5
RIVAL_WINDOW_S: Final = 60.0


@dataclass(slots=True)
class Partition:
    """An assigned partition: its claim (None until it is taken) and what its next batch must carry."""

    claim: Claim | None = None
    position: int = 0  # the first offset not read yet
    record_ms: int = 0  # Kafka's time of the newest record read
    retry_at_s: float = 0.0  # not claimed before, by the monotonic clock
    dead: list[DeadCell] = field(default_factory=list)
    lateness: Lateness = field(default_factory=Lateness)
    lag: int | None = None  # as last seen: None until then, and an outage does not make it nothing


class Consumer:
    """One group member. `step` is called for ever; `close` ends it without loss."""

    def __init__(
        self,
        settings: ConsumerSettings,
        make_source: Callable[[Callable[[list[int]], None], Callable[[list[int]], None]], Source],
        decoder: Decoder,
        assembly: Assembly,
        target: Target,
        meter: Meter,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._decoder = decoder
        self._assembly = assembly
        self._target = target
        self._meter = meter
        self._counts = meter.counts
        self._now = monotonic_s
        self._partitions: dict[int, Partition] = {}
        self._open = False
        self._failures = 0
        self._failed_at_s = 0.0
        self._fence_losses: deque[float] = deque(maxlen=RIVAL_LOSSES)
        self._jumps: set[tuple[int, int, int]] = set()
        self._limit = DeadLimit(settings.dead_in_a_row, settings.dead_share, settings.dead_window)
        self._source = make_source(self._assigned, self._revoked)

    # -- the loop ----------------------------------------------------------------------------------------

    def step(self, wait_s: float) -> None:
        """One round; waits at most about `wait_s` for records.

        Raises:
            StoppedError, ConfigurationError: a person is needed; nothing of the round is lost.
        """
        try:
            self._recover()
            self._round(wait_s)
        except (RetryableError, UnreachableError) as error:
            self._outage(error)

    def _round(self, wait_s: float) -> None:
        settings = self._settings
        asked = self._now()
        wait = min(wait_s, self._patience_s(asked))
        polled = self._source.read(settings.poll_events, settings.batch_events, wait)
        started = self._now()
        if polled is not None:
            self._meter.took("consume", started - asked)
        truncate = self._take_in(polled, started) if polled is not None else None
        with self._meter.stage("hold"):
            clocks = self._clocks(self._now())
            released = self._assembly.take_all() if truncate else self._assembly.take(clocks)
        self._apply(released)
        self._counts.busy_s += self._now() - started
        if truncate:
            raise truncate

    def _patience_s(self, now_s: float) -> float:
        """How long to wait for records: no longer than until the next row that is held may be quiet.

        One that may be, and was not released, waits for what its partition has yet to read, not for the clock.
        """
        due_ms = self._assembly.quiet_at_ms()
        if due_ms is None:
            return float("inf")
        left_s = due_ms / 1000 - now_s
        return min(left_s, IDLE_WAIT_S) if left_s > 0 else IDLE_WAIT_S

    def _take_in(self, polled: Polled, read_at_s: float) -> TruncateError | None:
        """Decode and hold. A record of a partition that is not claimed (any more) is somebody else's.

        Rows were touched when their samples were read: the time to decode them is not added to the hold.
        """
        claimed = {number for number, partition in self._partitions.items() if partition.claim is not None}
        foreign = polled.newest_ms.keys() - claimed
        records = polled.records.without(foreign) if foreign else polled.records
        if doubtful := self._doubtful(records):
            self._give_up(doubtful, self._now())
            records = records.without(doubtful)
        with self._meter.stage("decode"):
            records, decoded, truncate = self._decode(records)
        self._limit.count(len(records), decoded.dead)
        for number, position in records.positions().items():
            partition = self._partitions[number]
            partition.position, partition.record_ms = position, polled.newest_ms[number]
            first = int(np.argmax(records.partitions == number))
            partition.lateness.read(int(records.offsets[first]), int(records.times_ms[first]))
        if truncate:
            self._partitions[truncate.partition].position = truncate.offset
        for cell in decoded.dead:
            self._partitions[cell.partition].dead.append(cell)
        self._meter.decoded(records, decoded)
        with self._meter.stage("hold"):
            self._assembly.add(decoded.batch, self._clocks(read_at_s))
        return truncate

    def _doubtful(self, records: Records) -> list[int]:
        """Partitions whose records don't follow one another, seen for the first time: they are read again.

        Gaps are legal (a compacted topic, a transaction's marker), but a client that skipped records looks
        the same, and only the second look tells one from the other.
        """
        if len(self._jumps) >= BELIEVED_JUMPS:
            return []
        positions = {number: partition.position for number, partition in self._partitions.items()}
        new = records.jumps(positions) - self._jumps
        for number, expected, found in sorted(new):
            log.warning("offsets_jump", partition=number, expected=expected, found=found)
        self._jumps |= new
        doubtful = sorted({number for number, *_ in new})
        self._counts.rereads += len(doubtful)
        return doubtful

    def _decode(self, records: Records) -> tuple[Records, Decoded, TruncateError | None]:
        """What stands before a truncate is still applied, so that the ledger stands at it when we stop."""
        truncate = None
        while True:
            try:
                return records, self._decoder.decode(records), truncate
            except TruncateError as error:
                truncate = truncate or error
                records = records.before(error.partition, error.offset)

    def _clocks(self, now_s: float) -> dict[int, Clock]:
        return {
            number: Clock(now_s * 1000, partition.record_ms, self._caught_up(number, partition))
            for number, partition in self._partitions.items()
        }

    def _caught_up(self, number: int, partition: Partition) -> bool:
        end = self._source.end_offset(number)
        return end is None or partition.position >= end

    # -- apply -------------------------------------------------------------------------------------------

    def _apply(self, released: pa.RecordBatch) -> None:
        """One transaction per partition that has something to write or to move on."""
        by_partition = _split(released)
        committed = {}
        for number, partition in list(self._partitions.items()):
            if (claim := partition.claim) is None:
                continue
            batch = self._next_batch(number, partition, claim, by_partition.get(number, empty_batch()))
            if batch is None:
                continue
            try:
                partition.claim, applied = self._target.apply(claim, batch)
            except FenceLostError as error:
                self._fence_lost(number, error)
                continue
            partition.dead.clear()
            partition.lateness.applied(batch.to, partition.position)
            committed[number] = batch.to
            self._meter.applied(applied, batch.samples)
        if committed:
            self._failures = 0
            self._source.commit(committed)

    def _next_batch(
        self, number: int, partition: Partition, claim: Claim, samples: pa.RecordBatch
    ) -> PartitionBatch | None:
        """The partition's next transaction; None where there is nothing to write and the ledger can't move."""
        low = self._assembly.low_water(number)
        to = partition.position if low is None else low
        if samples.num_rows or partition.dead or (low is None and to > claim.next_offset):
            return PartitionBatch(samples, list(partition.dead), to)
        return None

    # -- assignment and outages ---------------------------------------------------------------------------

    def _assigned(self, partitions: list[int]) -> None:
        log.info("assigned", partitions=sorted(partitions))
        for number in partitions:
            self._partitions[number] = Partition()
        self._counts.rebalances += 1

    def _revoked(self, partitions: list[int]) -> None:
        log.info("revoked", partitions=sorted(partitions))
        self._assembly.drop(partitions)
        for number in partitions:
            self._partitions.pop(number, None)

    def _recover(self) -> None:
        """Open the session if it is closed, claim what is not claimed, and read on from the ledger's offsets."""
        now = self._now()
        waiting = [n for n, p in self._partitions.items() if p.claim is None and now >= p.retry_at_s]
        if not waiting:
            return
        if not self._open:
            self._target.open()
            self._open = True
        for number in waiting:
            claim, before = self._target.claim(number), self._partitions[number]
            self._source.start(number, claim.next_offset)
            self._partitions[number] = Partition(
                claim, claim.next_offset, lateness=before.lateness, lag=before.lag
            )
        log.info("claimed", partitions=sorted(waiting))

    def _outage(self, error: Exception) -> None:
        """Give up what is in flight; the ledger knows the truth. Polling goes on, so the group keeps us."""
        now = self._now()
        self._failures = self._failures + 1 if now - self._failed_at_s < CALM_S else 1
        self._failed_at_s = now
        log.warning("outage", error=str(error), failures=self._failures)
        self._counts.outages += 1
        self._target.close()
        self._open = False
        first, most = BACKOFF_S
        delay_s = min(most, first * 2 ** min(self._failures - 1, 10))
        jitter = 0.5 + random.random() / 2  # noqa: S311 - not a secret
        self._give_up(list(self._partitions), now + delay_s * jitter)

    def _give_up(self, partitions: list[int], retry_at_s: float) -> None:
        """Read no further and forget what is held, until the partitions are claimed again."""
        self.lags()
        self._source.pause(partitions)
        self._assembly.drop(partitions)
        for number in partitions:
            before = self._partitions[number]
            self._partitions[number] = Partition(
                retry_at_s=retry_at_s, lateness=before.lateness.given_up(), lag=before.lag
            )

    def _fence_lost(self, number: int, error: FenceLostError) -> None:
        """Another owner has the partition. If Kafka still gives it to us, we claim it again, but not for ever."""
        log.warning("fence_lost", partition=number, error=str(error))
        self._counts.fence_losses += 1
        now = self._now()
        # Partitions lost together are one hand-over: this process slept past its session, and wakes up.
        if not self._fence_losses or now - self._fence_losses[-1] >= RECLAIM_S:
            self._fence_losses.append(now)
        recent = sum(now - at < RIVAL_WINDOW_S for at in self._fence_losses)
        if recent == RIVAL_LOSSES:
            raise StoppedError(
                f"Lost partitions {RIVAL_LOSSES} times within a minute, at last: {error}. A second consumer with"
                " another group id writes for this pipeline: stop one of the two."
            )
        self._give_up([number], now + RECLAIM_S * 2 ** (recent - 1))

    # -- what others ask ---------------------------------------------------------------------------------

    def lags(self) -> dict[int, int]:
        """Records behind the end of each partition, as last heard from the broker.

        One that was not seen yet is left out: nobody may take it for one that is up to date.
        """
        for number, partition in self._partitions.items():
            end = self._source.end_offset(number)
            if partition.claim is not None and end is not None:
                partition.lag = max(0, end - partition.claim.next_offset)
        return {n: partition.lag for n, partition in self._partitions.items() if partition.lag is not None}

    def tell(self) -> Snapshot:
        """The counts, with what is true just now."""
        counts, assembly, now_ms = self._counts, self._assembly, self._meter.wall_ms()
        counts.lag = self.lags()
        counts.late_s = {
            n: self._partitions[n].lateness.seconds(lag, now_ms) for n, lag in counts.lag.items()
        }
        claims = {number: partition.claim for number, partition in self._partitions.items()}
        counts.positions = {number: claim.next_offset for number, claim in claims.items() if claim}
        counts.unclaimed = sum(claim is None for claim in claims.values())
        counts.held_rows, counts.held_events = assembly.held_rows, assembly.held_events
        counts.held_bytes, counts.schemas = assembly.held_bytes, self._decoder.schemas_known
        counts.ready = self.ready
        return counts

    @property
    def ready(self) -> bool:
        """Whether all that is assigned is claimed; an idle member is ready."""
        return all(partition.claim is not None for partition in self._partitions.values())

    def close(self) -> None:
        """End without loss: every applied batch is committed, and what is held is read again by a successor."""
        self._source.close()
        self._target.close()


def _split(released: pa.RecordBatch) -> dict[int, pa.RecordBatch]:
    """The samples of each partition, in order."""
    partition = released.column("partition").to_numpy()
    numbers = np.unique(partition).tolist()
    if len(numbers) == 1:
        return {numbers[0]: released}
    return {number: released.filter(pa.array(partition == number)) for number in numbers}
