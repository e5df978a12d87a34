"""Rows still arriving: samples are held until their row is whole, so that it is written once. Pure.

In: decoded batches, with the clocks of their partitions. Out: the samples of rows that are ready, in arrival
order, and for each partition the lowest offset that is still held, which is where a successor must start.

created_time is never compared with a clock or with another created_time: collectors write channel by channel,
ships come back after an hour with 240 moments at once, and clocks jump. A row is ready when nothing came for
`hold_ms`, when it is as full as that ship's rows usually are, when it was held for `max_hold_ms`, or, least
recently touched first, when too much is held.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from widetable.cells import BoolArray, IntArray, number_rows
from widetable.narrow import empty_batch

FADE: Final = 0.98
"""A ship's usual fullness is that of its fullest row, less 2 % with every row since: channels that fall silent
are forgotten after some rows, a few late cells change nothing."""
PAST_ROWS: Final = 10_000
"""So many released rows are remembered before all are forgotten: one that gets more samples was not full."""
NEVER: Final = float("inf")

Key = tuple[str, int]  # ship, moment


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """When a row is ready at the latest."""

    hold_ms: float
    max_hold_ms: float
    max_events: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Clock:
    """What time it is for a partition: Kafka's record time while behind, the monotonic clock once caught up."""

    monotonic_ms: float
    record_ms: float
    caught_up: bool


@dataclass(slots=True)
class Group:
    """One row still arriving; `events` counts what was released of it too early, too."""

    number: int
    full_at: float
    first: Clock
    touched: Clock
    events: int
    held: int = 0


@dataclass(slots=True)
class Chunk:
    """Held samples that arrived together; `group[i]` is the number of the row that sample i belongs to."""

    batch: pa.RecordBatch
    group: IntArray
    size_bytes: int = field(init=False)
    low: dict[int, int] = field(init=False)  # lowest offset per partition

    def __post_init__(self) -> None:
        partition = self.batch.column("partition").to_numpy()
        offset = self.batch.column("offset").to_numpy()
        self.low = {int(p): int(offset[partition == p].min()) for p in np.unique(partition)}
        self.size_bytes = self.batch.nbytes


Groups = OrderedDict[Key, Group]  # least recently touched first


class Assembly:
    """Holds the samples of incomplete rows, bounded in events and bytes."""

    def __init__(self, limits: HoldLimits) -> None:
        self._limits = limits
        self._chunks: list[Chunk] = []
        self._groups: defaultdict[int, Groups] = defaultdict(OrderedDict)  # by partition
        self._ready: defaultdict[int, set[Key]] = defaultdict(set)
        self._past: dict[Key, Group] = {}  # released
        self._usual: dict[str, float] = {}
        self._free: list[int] = []
        self._numbers = 0
        self._events = 0

    @property
    def held_events(self) -> int:
        """Samples held."""
        return self._events

    @property
    def held_rows(self) -> int:
        """Rows still arriving."""
        return sum(len(groups) for groups in self._groups.values())

    @property
    def held_bytes(self) -> int:
        """Bytes of the samples held."""
        return sum(chunk.size_bytes for chunk in self._chunks)

    def low_water(self, partition: int) -> int | None:
        """The lowest offset held of a partition; None where nothing is."""
        return min((chunk.low[partition] for chunk in self._chunks if partition in chunk.low), default=None)

    def quiet_at_ms(self) -> float | None:
        """When, by the wall, the next row may have been quiet for long enough; None where nothing is held."""
        fronts = [next(iter(groups.values())) for groups in self._groups.values() if groups]
        touched = min((group.touched.monotonic_ms for group in fronts), default=None)
        return None if touched is None else touched + self._limits.hold_ms

    # -- in ----------------------------------------------------------------------------------------------

    def add(self, batch: pa.RecordBatch, clocks: dict[int, Clock]) -> None:
        """Hold a decoded batch; `clocks` has an entry for every partition in it."""
        if not batch.num_rows:
            return
        rows, row = number_rows(batch.column("ship_id"), batch.column("created_time"))
        where = batch.column("partition").to_numpy()
        partition = np.zeros(len(rows), where.dtype)
        partition[row] = where
        if (partition[row] != where).any():  # a ship in two partitions: each has its own place to start from
            for part in np.unique(where):
                self.add(batch.filter(pa.array(where == part)), clocks)
            return
        ships = [rows.ships[ship] for ship in rows.ship.tolist()]
        counts, partitions = np.bincount(row).tolist(), partition.tolist()
        touched = zip(partitions, ships, rows.moment.tolist(), counts, strict=True)
        number = [self._touch(p, (ship, moment), count, clocks[p]) for p, ship, moment, count in touched]
        self._chunks.append(Chunk(batch, np.array(number)[row]))
        self._events += batch.num_rows

    def _touch(self, partition: int, key: Key, events: int, clock: Clock) -> int:
        groups = self._groups[partition]
        group = groups.get(key)
        if group is None:
            group = groups[key] = self._new_group(key, clock)
        else:
            groups.move_to_end(key)
        group.touched = clock
        group.events += events
        group.held += events
        if group.events >= group.full_at or _passed(group.first, clock, self._limits.max_hold_ms):
            self._ready[partition].add(key)
        return group.number

    def _new_group(self, key: Key, clock: Clock) -> Group:
        """A row of which more comes after its release was taken for full too early: it waits until it is quiet."""
        if self._free:
            number = self._free.pop()
        else:
            number, self._numbers = self._numbers, self._numbers + 1
        past = self._past.pop(key, None)
        if past is not None and not _passed(past.touched, clock, self._limits.max_hold_ms):
            return Group(number, NEVER, clock, clock, past.events)
        return Group(number, self._usual.get(key[0], NEVER), clock, clock, 0)

    # -- out ---------------------------------------------------------------------------------------------

    def take(self, clocks: dict[int, Clock]) -> pa.RecordBatch:
        """Release the samples of all rows that are ready by now, in arrival order."""
        released = np.zeros(self._numbers, bool)
        for partition, groups in self._groups.items():
            for key in self._due(partition, groups, clocks.get(partition)):
                self._release(groups, key, released)
        self._relieve(released, self._limits.max_events)
        out = self._split(released)
        while (size_bytes := self.held_bytes) > self._limits.max_bytes:
            released = np.zeros(self._numbers, bool)
            self._relieve(released, int(self.held_events * self._limits.max_bytes / size_bytes))
            out += self._split(released)
        return pa.concat_batches(out) if out else empty_batch()

    def take_all(self) -> pa.RecordBatch:
        """Release everything, ready or not: nothing more will come."""
        released = np.zeros(self._numbers, bool)
        for groups in self._groups.values():
            for key in list(groups):
                self._release(groups, key, released)
        self._ready.clear()
        out = self._split(released)
        return pa.concat_batches(out) if out else empty_batch()

    def _due(self, partition: int, groups: Groups, clock: Clock | None) -> list[Key]:
        """Rows marked ready, and quiet ones: those stand at the front, least recently touched first."""
        ready = self._ready.pop(partition, set())
        due = list(ready)
        if clock is not None:
            for key, group in groups.items():
                if not self._is_quiet(group.touched, clock):
                    break
                if key not in ready:
                    due.append(key)
        return due

    def _is_quiet(self, touched: Clock, clock: Clock) -> bool:
        """Nothing came for long; at the latest by the wall, for record time may stand still for ever."""
        silence_ms = clock.monotonic_ms - touched.monotonic_ms
        return _passed(touched, clock, self._limits.hold_ms) or silence_ms >= self._limits.max_hold_ms

    def _release(self, groups: Groups, key: Key, released: BoolArray) -> None:
        group = groups.pop(key)
        released[group.number] = True
        self._events -= group.held
        self._free.append(group.number)
        ship = key[0]
        self._usual[ship] = max(group.events, self._usual.get(ship, 0) * FADE)
        if len(self._past) >= PAST_ROWS:
            self._past.clear()
        self._past[key] = group

    def _relieve(self, released: BoolArray, allowed_events: int) -> None:
        """Release the least recently touched rows while more is held than allowed."""
        while self._events > allowed_events:
            fronts = [(*next(iter(groups.items())), groups) for groups in self._groups.values() if groups]
            key, _, groups = min(fronts, key=lambda front: front[1].touched.monotonic_ms)
            self._release(groups, key, released)

    def _split(self, released: BoolArray) -> list[pa.RecordBatch]:
        """Part the released samples from those that stay."""
        if not released.any():
            return []
        out, kept = [], []
        for chunk in self._chunks:
            leaves = released[chunk.group]
            if leaves.all():
                out.append(chunk.batch)
            elif not leaves.any():
                kept.append(chunk)
            else:
                out.append(chunk.batch.filter(pa.array(leaves)))
                kept.append(Chunk(chunk.batch.filter(pa.array(~leaves)), chunk.group[~leaves]))
        self._chunks = kept
        return out

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget what is held of partitions that are another's now; their new owner reads it again."""
        gone = set(partitions)
        for partition in gone:
            self._ready.pop(partition, None)
            for group in self._groups.pop(partition, {}).values():
                self._events -= group.held
                self._free.append(group.number)
        kept = []
        for chunk in self._chunks:
            stays = ~np.isin(chunk.batch.column("partition").to_numpy(), list(gone))
            if stays.all():
                kept.append(chunk)
            elif stays.any():
                kept.append(Chunk(chunk.batch.filter(pa.array(stays)), chunk.group[stays]))
        self._chunks = kept
        self._past.clear()  # what is read again is no sign that a row was not full


def _passed(since: Clock, now: Clock, wait_ms: float) -> bool:
    """Whether `wait_ms` went by: by the wall only where the partition has nothing more to read."""
    if now.record_ms - since.record_ms >= wait_ms:
        return True
    return now.caught_up and now.monotonic_ms - since.monotonic_ms >= wait_ms
