"""The combined counts of all processes, and what the parent has seen, as Prometheus metrics.

Names, kinds and help texts are the catalogue's; a name that is not in it can't be exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cdc_consumer.catalogue import CATALOGUE, RESULTS, STAGES
from cdc_consumer.meter import OPS
from cdc_consumer.metrics import BATCH_BUCKETS, BUCKETS_MS, Latencies, Sizes, Snapshot
from cdc_consumer.target_facts import Gauges

BUCKET_STEP: Final = 2
"""Every second bucket is exported: 26 % steps are enough for a dashboard."""


class SnapshotCollector(Collector):
    """All metrics, made anew for each scrape.

    Args:
        snapshot: the combined counts.
        ready: whether all processes have claimed what they were assigned.
        watched: what the parent knows of source, Connect and target.
    """

    def __init__(
        self, snapshot: Callable[[], Snapshot], ready: Callable[[], bool], watched: Callable[[], Gauges]
    ) -> None:
        self._snapshot, self._ready, self._watched = snapshot, ready, watched

    def collect(self) -> Iterator[Metric]:
        """Every metric of the catalogue."""
        counts = self._snapshot()
        known = {**_plain(counts), **self._watched(), "cdc_ready": float(self._ready())}
        histograms = _histograms(counts)
        for name in CATALOGUE:
            yield histograms[name] if name in histograms else _family(name, known.pop(name, {}))
        if strangers := known.keys():
            raise LookupError(f"not in the catalogue: {', '.join(strangers)}")


def _plain(counts: Snapshot) -> dict[str, float | Mapping[str, float]]:
    """What is no histogram; with a label, one number for each of its values."""
    applied = counts.applied
    return {
        "cdc_lag_messages": _numbered(counts.lag),
        "cdc_lag_seconds": _numbered(counts.late_s),
        "cdc_ledger_offset": _numbered(counts.positions),
        "cdc_records_total": counts.polled,
        "cdc_dead_records_total": counts.dead_records,
        "cdc_samples_total": {op: counts.ops[op] for op in OPS},
        "cdc_events_total": {result: getattr(applied, result) for result in RESULTS}
        | {f"filtered_{reason}": number for reason, number in counts.filtered.items()},
        "cdc_format_mismatches_total": applied.format_mismatch,
        "cdc_rows_written_total": {"new": applied.rows_new, "merged": applied.rows_merged},
        "cdc_cells_written_total": applied.cells_written,
        "cdc_batches_total": counts.batches,
        "cdc_stage_seconds_total": {stage: counts.stage_us[stage] / 1e6 for stage in STAGES},
        "cdc_busy_seconds_total": counts.busy_s,
        "cdc_held_rows": counts.held_rows,
        "cdc_held_samples": counts.held_events,
        "cdc_held_bytes": counts.held_bytes,
        "cdc_schemas": counts.schemas,
        "cdc_outages_total": counts.outages,
        "cdc_rereads_total": counts.rereads,
        "cdc_unclaimed_partitions": counts.unclaimed,
        "cdc_rebalances_total": counts.rebalances,
        "cdc_fence_losses_total": counts.fence_losses,
    }


def _numbered(by_partition: Mapping[int, float]) -> dict[str, float]:
    return {str(partition): number for partition, number in sorted(by_partition.items())}


def _histograms(counts: Snapshot) -> dict[str, Metric]:
    latencies = {
        "cdc_capture_seconds": counts.capture_ms,
        "cdc_transport_seconds": counts.transport_ms,
        "cdc_apply_seconds": counts.apply_ms,
        "cdc_total_seconds": counts.total_ms,
    }
    made: dict[str, Metric] = {name: _seconds(name, found) for name, found in latencies.items()}
    return made | {"cdc_batch_samples": _samples("cdc_batch_samples", counts.batch_sizes)}


def _family(name: str, value: float | Mapping[str, float]) -> Metric:
    """A counter or gauge; one without a value has no line."""
    entry = CATALOGUE[name]
    kind = CounterMetricFamily if entry.kind == "counter" else GaugeMetricFamily
    family = kind(entry.name, entry.help, labels=[entry.label] if entry.label else [])
    if isinstance(value, Mapping):
        for text, number in value.items():
            family.add_metric([text], number)
    else:
        family.add_metric([], value)
    return family


def _seconds(name: str, latencies: Latencies) -> Metric:
    bounds = np.append(BUCKETS_MS, BUCKETS_MS[-1])  # what came later than the last bound counts as that
    total = float((latencies.counts * bounds).sum() / 1000)
    return _histogram(name, latencies.counts, BUCKETS_MS / 1000, BUCKET_STEP, total)


def _samples(name: str, sizes: Sizes) -> Metric:
    return _histogram(name, sizes.counts, BATCH_BUCKETS, 1, sizes.total)


def _histogram(
    name: str, counts: npt.NDArray[np.int64], bounds: npt.NDArray[np.generic], step: int, total: float
) -> Metric:
    cumulative = counts.cumsum()
    buckets = [(f"{bounds[i]:g}", float(cumulative[i])) for i in range(0, len(bounds), step)]
    whole = [*buckets, ("+Inf", float(cumulative[-1]))]
    return HistogramMetricFamily(name, CATALOGUE[name].help, buckets=whole, sum_value=total)
