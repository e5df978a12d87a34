"""Counts what one consumer process does, into its `Snapshot`: per batch, never per cell.

The latencies of a batch are whole arrays; a stage costs two looks at the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from cdc_consumer.metrics import Snapshot, runs
from cdc_consumer.records import Records
from widetable.applied import Applied
from widetable.narrow import Decoded, Op

OPS = tuple(op.name.lower() for op in Op)


class Meter:
    """What happens in a process, counted.

    Args:
        counts: where to.
        monotonic_s: for durations.
        wall_s: for comparing with the source's and Kafka's times.
    """

    def __init__(
        self, counts: Snapshot, monotonic_s: Callable[[], float], wall_s: Callable[[], float]
    ) -> None:
        self.counts = counts
        self._now, self._wall = monotonic_s, wall_s

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time spent in a stage of the loop: consume, decode, hold, apply (pivot and write), commit."""
        started = self._now()
        try:
            yield
        finally:
            self.took(name, self._now() - started)

    def took(self, name: str, seconds: float) -> None:
        """A stage has taken so long."""
        self.counts.stage_us[name] += round(seconds * 1e6)

    def decoded(self, records: Records, decoded: Decoded) -> None:
        """Records were read, and samples made of them."""
        self.counts.polled += len(records)
        self.counts.decoded += decoded.batch.num_rows
        self.counts.dead_records += len(decoded.dead)
        self.counts.filtered.update(decoded.filtered)
        starts, lengths = runs(records.times_ms)
        self.counts.transport_ms.add(self.wall_ms() - records.times_ms[starts], lengths)

    def applied(self, applied: Applied, samples: pa.RecordBatch) -> None:
        """A batch was committed."""
        counts, now_ms = self.counts, self.wall_ms()
        counts.batches += 1
        counts.applied += applied
        counts.batch_sizes.add(samples.num_rows)
        ops = np.bincount(samples.column("op").to_numpy(), minlength=len(OPS))
        counts.ops.update({name: int(number) for name, number in zip(OPS, ops, strict=True) if number})
        in_kafka, at_source = (samples.column(name).to_numpy() for name in ("record_ms", "source_ms"))
        starts, lengths = runs(in_kafka, at_source)
        in_kafka, at_source = in_kafka[starts], at_source[starts]
        for latencies, milliseconds in (
            (counts.capture_ms, in_kafka - at_source),
            (counts.apply_ms, now_ms - in_kafka),
            (counts.total_ms, now_ms - at_source),
        ):
            latencies.add(milliseconds, lengths)

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self._wall() * 1000)
