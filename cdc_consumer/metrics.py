"""What a consumer process counts, and how the counts of several processes become one.

Each consumer process keeps a `Snapshot` and sends it to the parent twice a second; the parent adds them up and
serves the sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from widetable.applied import Applied

BUCKETS_MS: Final = np.round(10 ** np.arange(0, 7.01, 0.05), 2)
"""Upper bounds of latency buckets, 1 ms to nearly 3 hours; each is 12 % wider than the one before."""
BATCH_BUCKETS: Final = np.array([1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000])
"""Upper bounds of batch sizes, in samples."""


def runs(*columns: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where runs of equal entries (in all columns, of one length) start, and how long each is.

    The records of a fetch share their time in Kafka, the rows of a transaction its commit: a batch has few runs.
    """
    changes = np.zeros(len(columns[0]), bool)
    changes[:1] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(changes)
    return starts, np.diff(starts, append=len(changes))


@dataclass(slots=True)
class Latencies:
    """A histogram of milliseconds, weighted by events; two can be added."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(BUCKETS_MS) + 1, np.int64))

    def add(self, milliseconds: npt.NDArray[np.int64], events: npt.NDArray[np.intp] | None = None) -> None:
        """Count latencies, each of so many events, or of one; one below zero (clocks differ) counts as zero."""
        bucket = np.searchsorted(BUCKETS_MS, milliseconds)
        self.counts += np.bincount(bucket, events, minlength=len(self.counts)).astype(np.int64)

    def quantile(self, share: float) -> float | None:
        """The upper bound of the bucket that holds the quantile; None without events."""
        total = int(self.counts.sum())
        if not total:
            return None
        bucket = int(np.searchsorted(np.cumsum(self.counts), share * total))
        return float(BUCKETS_MS[min(bucket, len(BUCKETS_MS) - 1)])


@dataclass(slots=True)
class Sizes:
    """A histogram of batches by their number of samples, and the sum of all."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(BATCH_BUCKETS) + 1, np.int64))
    total: int = 0

    def add(self, size: int) -> None:
        """Count one batch."""
        self.counts[np.searchsorted(BATCH_BUCKETS, size)] += 1
        self.total += size


@dataclass(slots=True)
class Snapshot:
    """Counts of one process since it started, or of all processes together; below, what is true just now."""

    polled: int = 0  # records read from Kafka
    decoded: int = 0  # samples made of them
    dead_records: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)  # samples applied, by what happened to them
    applied: Applied = field(default_factory=Applied)
    batches: int = 0
    batch_sizes: Sizes = field(default_factory=Sizes)
    rebalances: int = 0
    fence_losses: int = 0
    outages: int = 0
    rereads: int = 0  # partitions read again because offsets jumped
    capture_ms: Latencies = field(default_factory=Latencies)  # committed at the source -> record in Kafka
    transport_ms: Latencies = field(default_factory=Latencies)  # record in Kafka -> read here
    apply_ms: Latencies = field(default_factory=Latencies)  # record in Kafka -> row committed
    total_ms: Latencies = field(default_factory=Latencies)  # committed at the source -> row committed
    busy_s: float = 0.0  # time spent with records in hand, waiting for more excluded
    stage_us: Counter[str] = field(default_factory=Counter)  # microseconds in each stage
    lag: dict[int, int] = field(default_factory=dict)  # records not applied, by partition
    late_s: dict[int, float] = field(default_factory=dict)  # how long the first of them has been in Kafka
    positions: dict[int, int] = field(default_factory=dict)  # next offset in the ledger
    held_rows: int = 0
    held_events: int = 0
    held_bytes: int = 0
    schemas: int = 0  # writer schemas in the decoder's cache
    unclaimed: int = 0  # partitions assigned and not claimed (yet)
    ready: bool = False

    def end(self) -> None:
        """The process is gone: its counts stay, what was true of it is not true any more."""
        self.lag, self.late_s, self.positions = {}, {}, {}
        self.held_rows = self.held_events = self.held_bytes = self.schemas = self.unclaimed = 0
        self.ready = True

    def outlived(self) -> Snapshot:
        """What is left of a report that is too old: its counts. Partitions may have another owner by now."""
        old = replace(self)
        old.end()
        old.ready = False
        return old


def combined(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of several processes' counts; a partition is in one process only."""
    total = Snapshot(ready=True)
    for part in snapshots:
        for each in fields(Snapshot):
            _add(total, each.name, getattr(part, each.name))
    return total


def _add(total: Snapshot, name: str, value: object) -> None:
    match value:
        case bool():
            setattr(total, name, getattr(total, name) and value)
        case int() | float() | Applied():
            setattr(total, name, getattr(total, name) + value)
        case Latencies():
            getattr(total, name).counts += value.counts
        case Sizes():
            getattr(total, name).counts += value.counts
            getattr(total, name).total += value.total
        case _:  # counters add up, dictionaries are joined
            getattr(total, name).update(value)
