"""What a consumer process counts, and how the counts of several processes become one.

Each consumer process keeps a `Snapshot` and sends it to the parent twice a second; the parent adds them up and
serves the sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from widetable.applied import Applied

BUCKETS_MS: Final = np.round(10 ** np.arange(0, 7.01, 0.05), 2)
"""Upper bounds of latency buckets, 1 ms to nearly 3 hours; each is 12 % wider than the one before."""


@dataclass(slots=True)
class Latencies:
    """A histogram of milliseconds, weighted by events; two can be added."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(BUCKETS_MS) + 1, np.int64))

    def add(self, milliseconds: npt.NDArray[np.int64]) -> None:
        """Count one latency per event."""
        bucket = np.searchsorted(BUCKETS_MS, milliseconds)
        self.counts += np.bincount(bucket, minlength=len(self.counts))

    def quantile(self, share: float) -> float | None:
        """The upper bound of the bucket that holds the quantile; None without events."""
        total = int(self.counts.sum())
        if not total:
            return None
        bucket = int(np.searchsorted(np.cumsum(self.counts), share * total))
        return float(BUCKETS_MS[min(bucket, len(BUCKETS_MS) - 1)])


@dataclass(slots=True)
class Snapshot:
    """Counts of one process since it started, or of all processes together."""

    polled: int = 0  # records read from Kafka
    decoded: int = 0  # samples made of them
    dead_records: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    applied: Applied = field(default_factory=Applied)
    batches: int = 0
    rebalances: int = 0
    fence_losses: int = 0
    outages: int = 0
    rereads: int = 0  # partitions read again because offsets jumped
    apply_ms: Latencies = field(default_factory=Latencies)  # record in Kafka -> row committed
    total_ms: Latencies = field(default_factory=Latencies)  # committed at the source -> row committed
    busy_s: float = 0.0  # time spent with records in hand, waiting for more excluded
    lag: dict[int, int] = field(default_factory=dict)
    held_rows: int = 0
    ready: bool = False


def combined(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of several processes' counts."""
    total = Snapshot(ready=True)
    for part in snapshots:
        for name in (
            "polled",
            "decoded",
            "dead_records",
            "batches",
            "rebalances",
            "fence_losses",
            "outages",
            "rereads",
        ):
            setattr(total, name, getattr(total, name) + getattr(part, name))
        total.filtered.update(part.filtered)
        total.applied += part.applied
        total.apply_ms.counts += part.apply_ms.counts
        total.total_ms.counts += part.total_ms.counts
        total.busy_s += part.busy_s
        total.lag.update(part.lag)
        total.held_rows += part.held_rows
        total.ready &= part.ready
    return total
