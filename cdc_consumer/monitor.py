"""`/metrics`, `/healthz` and `/readyz`, served by the parent process from the sum of its workers' counts.

Health means that the parent's loop goes round; readiness, that every process has claimed what Kafka assigned
to it. A group member without partitions is ready.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cdc_consumer.metrics import BUCKETS_MS, Latencies, Snapshot
from widetable.errors import ConfigurationError

STALLED_S: Final = 60.0
"""A loop that has not gone round for so long is not healthy."""
BUCKET_STEP: Final = 4
"""Every fourth bucket is exported: 58 % steps are enough for a dashboard."""


WATCHED: Final = {
    "cdc_slot_active": "Whether somebody reads the replication slot.",
    "cdc_slot_retained_bytes": "WAL that the slot keeps at the source.",
    "cdc_slot_wal_budget_bytes": "WAL that may still pile up before the slot is lost.",
    "cdc_connector_running": "Whether connector and task are RUNNING.",
    "cdc_heartbeat_age_seconds": "Age of the heartbeat at the source.",
}
"""What the watchdog sees; a value that could not be read is left out."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the server asks the program."""

    snapshot: Callable[[], Snapshot]
    alive_s: Callable[[], float]
    ready: Callable[[], bool]
    watched: Callable[[], Mapping[str, float]] = dict


class SnapshotCollector(Collector):
    """The combined counts as Prometheus metrics."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def collect(self) -> Iterator[Metric]:
        """All metrics, from one snapshot."""
        counts = self._probe.snapshot()
        lag = GaugeMetricFamily("cdc_lag_messages", "Records not applied yet.", labels=["partition"])
        for partition, messages in sorted(counts.lag.items()):
            lag.add_metric([str(partition)], messages)
        yield lag
        events = CounterMetricFamily("cdc_events", "Samples by what became of them.", labels=["result"])
        for result in ("applied", "superseded", "overflow", "dead"):
            events.add_metric([result], getattr(counts.applied, result))
        for reason, number in counts.filtered.items():
            events.add_metric([f"filtered_{reason}"], number)
        yield events
        yield CounterMetricFamily("cdc_records", "Records read from Kafka.", counts.polled)
        yield CounterMetricFamily(
            "cdc_dead_records", "Records that could not be decoded.", counts.dead_records
        )
        rows = CounterMetricFamily("cdc_rows_written", "Wide rows written.", labels=["how"])
        rows.add_metric(["new"], counts.applied.rows_new)
        rows.add_metric(["merged"], counts.applied.rows_merged)
        yield rows
        yield CounterMetricFamily("cdc_batches", "Transactions committed.", counts.batches)
        yield CounterMetricFamily("cdc_outages", "Times that the loop paused and went on.", counts.outages)
        yield CounterMetricFamily("cdc_rereads", "Partitions read again: offsets jumped.", counts.rereads)
        yield CounterMetricFamily("cdc_rebalances", "Assignments received.", counts.rebalances)
        yield CounterMetricFamily("cdc_fence_losses", "Batches refused by the ledger.", counts.fence_losses)
        yield CounterMetricFamily("cdc_busy_seconds", "Time spent with records in hand.", counts.busy_s)
        yield GaugeMetricFamily("cdc_held_rows", "Rows still arriving.", counts.held_rows)
        yield from _watched(self._probe.watched())
        yield _histogram("cdc_apply_seconds", "From Kafka to the committed row.", counts.apply_ms)
        yield _histogram(
            "cdc_total_seconds", "From the source's commit to the committed row.", counts.total_ms
        )


def _watched(seen: Mapping[str, float]) -> Iterator[Metric]:
    for name, text in WATCHED.items():
        yield GaugeMetricFamily(name, text, seen.get(name))
    restarts = seen.get("cdc_connector_restarts", 0)
    yield CounterMetricFamily("cdc_connector_restarts", "Times a failed connector was restarted.", restarts)


def _histogram(name: str, text: str, latencies: Latencies) -> HistogramMetricFamily:
    cumulative = latencies.counts.cumsum()
    buckets = [
        (f"{BUCKETS_MS[i] / 1000:g}", float(cumulative[i])) for i in range(0, len(BUCKETS_MS), BUCKET_STEP)
    ]
    bounds = np.append(BUCKETS_MS, BUCKETS_MS[-1])  # what came later than the last bound counts as that
    total = float((latencies.counts * bounds).sum() / 1000)
    return HistogramMetricFamily(
        name, text, buckets=[*buckets, ("+Inf", float(cumulative[-1]))], sum_value=total
    )


def serve(host: str, port: int, probe: Probe) -> ThreadingHTTPServer:
    """Serve in a thread of its own; `shutdown()` the returned server to end it.

    Raises:
        ConfigurationError: the address can't be had.
    """
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(probe))

    class Handler(BaseHTTPRequestHandler):
        """Answers GET."""

        def do_GET(self) -> None:
            """One of three pages."""
            status, kind, body = _answer(self.path, probe, registry)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Health checks are not worth a line each."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigurationError(
            f"Can't listen on {host}:{port} ({error.strerror}):"
            " set CDC_CONSUMER__HTTP_PORT to a free port, or to 0 for none."
        ) from error
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


def _answer(path: str, probe: Probe, registry: CollectorRegistry) -> tuple[int, str, bytes]:
    match path.partition("?")[0]:
        case "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
        case "/healthz":
            alive = probe.alive_s() < STALLED_S
            return (200 if alive else 503), "text/plain", b"ok\n" if alive else b"the loop stands still\n"
        case "/readyz":
            ready = probe.ready()
            return (200 if ready else 503), "text/plain", b"ready\n" if ready else b"not ready yet\n"
    return 404, "text/plain", b"try /metrics, /healthz or /readyz\n"
