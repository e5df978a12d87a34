"""HTTP of the parent process: what Prometheus, a load balancer and a container's health check see."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cdc_consumer.catalogue import CATALOGUE
from cdc_consumer.exposition import SnapshotCollector
from cdc_consumer.metrics import BUCKETS_MS, Latencies, Sizes, Snapshot
from cdc_consumer.monitor import STALLED_S, Probe, serve
from cdc_consumer.target_facts import Gauges
from widetable.applied import Applied
from widetable.errors import ConfigurationError


@contextmanager
def served(
    counts: Snapshot | None = None,
    alive_s: float = 0.0,
    *,
    ready: bool = True,
    watched: Gauges | None = None,
) -> Iterator[httpx.Client]:
    """A client of a server that tells these facts."""
    probe = Probe(lambda: counts or Snapshot(), lambda: alive_s, lambda: ready, lambda: watched or {})
    server: ThreadingHTTPServer = serve("127.0.0.1", 0, probe)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
            yield client
    finally:
        server.shutdown()
        server.server_close()


def samples(counts: Snapshot, watched: Gauges | None = None) -> dict[str, float]:
    """What /metrics says, by name and labels."""
    with served(counts, watched=watched) as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        sample.name + "".join(f",{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_show_every_event_by_its_end() -> None:
    """Applied, superseded, overflow, dead and filtered: nothing is dropped silently, so nothing is left out."""
    applied = Applied(events=15, applied=1, superseded=2, overflow=4, dead=8, rows_new=16, rows_merged=32)
    found = samples(Snapshot(applied=applied, filtered=Counter(placeholder=64)))
    events = {name.partition(",")[2]: n for name, n in found.items() if name.startswith("cdc_events_total")}
    assert events == {"applied": 1, "superseded": 2, "overflow": 4, "dead": 8, "filtered_placeholder": 64}
    assert (found["cdc_rows_written_total,new"], found["cdc_rows_written_total,merged"]) == (16, 32)


def test_metrics_show_loop_counts_and_lag() -> None:
    """The numbers that alerts are built on."""
    found = samples(
        Snapshot(
            polled=1,
            dead_records=2,
            batches=3,
            rebalances=4,
            fence_losses=5,
            outages=6,
            busy_s=7.5,
            held_rows=8,
            rereads=11,
            lag={0: 9, 11: 10},
        )
    )
    expected = {
        "cdc_records_total": 1,
        "cdc_dead_records_total": 2,
        "cdc_batches_total": 3,
        "cdc_rebalances_total": 4,
        "cdc_fence_losses_total": 5,
        "cdc_outages_total": 6,
        "cdc_busy_seconds_total": 7.5,
        "cdc_held_rows": 8,
        "cdc_rereads_total": 11,
        "cdc_lag_messages,0": 9,
        "cdc_lag_messages,11": 10,
    }
    assert {name: found[name] for name in expected} == expected


def test_metrics_show_where_each_partition_stands_and_where_time_goes() -> None:
    """Lateness beside lag, the ledger's offset, the stages, and what is held."""
    found = samples(
        Snapshot(
            late_s={3: 1.5},
            positions={3: 70},
            stage_us=Counter(decode=2_500_000),
            ops=Counter(update=4),
            held_events=5,
            held_bytes=6,
            schemas=7,
            unclaimed=8,
        )
    )
    expected = {
        "cdc_lag_seconds,3": 1.5,
        "cdc_ledger_offset,3": 70,
        "cdc_stage_seconds_total,decode": 2.5,
        "cdc_stage_seconds_total,commit": 0,
        "cdc_samples_total,update": 4,
        "cdc_held_samples": 5,
        "cdc_held_bytes": 6,
        "cdc_schemas": 7,
        "cdc_unclaimed_partitions": 8,
        "cdc_ready": 1,
    }
    assert {name: found[name] for name in expected} == expected


def test_what_could_not_be_read_is_absent() -> None:
    """An old number would look like the truth; one that was read is there, by its label if it has one."""
    found = samples(Snapshot(), {"cdc_dead_cells": {"nul": 2}, "cdc_slot_active": 1.0})
    assert (found["cdc_dead_cells,nul"], found["cdc_slot_active"]) == (2, 1)
    assert not {"cdc_slot_retained_bytes", "cdc_verified_age_seconds"} & found.keys()


def test_every_metric_is_one_of_the_catalogue_and_every_entry_is_exported() -> None:
    """A name that is made up fails at the first scrape of its test, and no entry is a promise."""
    exported = {family.name: family for family in SnapshotCollector(Snapshot, bool, dict).collect()}
    counters = {name for name, entry in CATALOGUE.items() if entry.kind == "counter"}
    assert {f"{name}_total" if f"{name}_total" in counters else name for name in exported} == CATALOGUE.keys()
    assert all(family.documentation for family in exported.values())
    with pytest.raises(LookupError, match="cdc_typo"):
        list(SnapshotCollector(Snapshot, bool, lambda: {"cdc_typo": 1.0}).collect())


def test_names_follow_the_conventions_of_prometheus() -> None:
    """Counters end in _total, nothing else does, times and sizes have base units; no label per ship or channel."""
    for name, entry in CATALOGUE.items():
        assert name.startswith("cdc_")
        assert name.endswith("_total") == (entry.kind == "counter"), name
        assert entry.label not in {"ship", "ship_id", "channel", "channel_id"}
        if entry.unit in {"seconds", "bytes"}:
            assert name.removesuffix("_total").endswith(entry.unit), name


def test_batch_sizes_are_a_histogram_of_samples() -> None:
    """How full transactions are."""
    sizes = Sizes()
    for size in (0, 7, 40_000):
        sizes.add(size)
    found = samples(Snapshot(batch_sizes=sizes))
    assert (found["cdc_batch_samples_count"], found["cdc_batch_samples_sum"]) == (3, 40_007)
    assert (found["cdc_batch_samples_bucket,10"], found["cdc_batch_samples_bucket,50000"]) == (2, 3)


def test_histograms_are_cumulative_and_complete() -> None:
    """Every event is in the +Inf bucket, also one later than the last bound, and the sum is near the truth."""
    seen = np.array([1, 50, 50, 400, 10_000, 10**9])
    late = Latencies()
    late.add(seen)
    found = samples(Snapshot(apply_ms=late))
    buckets = {
        float(name.partition(",")[2]): n
        for name, n in found.items()
        if name.startswith("cdc_apply_seconds_b")
    }
    assert list(buckets.values()) == sorted(buckets.values())
    assert all(n == np.count_nonzero(seen <= bound * 1000) for bound, n in buckets.items())
    assert buckets[float("inf")] == found["cdc_apply_seconds_count"] == len(seen)
    assert BUCKETS_MS[-1] in [bound * 1000 for bound in buckets]
    within = float(np.minimum(seen, BUCKETS_MS[-1]).sum() / 1000)
    assert found["cdc_apply_seconds_sum"] == pytest.approx(within, rel=0.13)


@pytest.mark.parametrize(
    ("path", "alive_s", "ready", "status"),
    [
        pytest.param("/healthz", 0.0, False, 200, id="healthy though not ready"),
        pytest.param("/healthz", STALLED_S + 1, True, 503, id="the loop stands still"),
        pytest.param("/readyz", 0.0, True, 200, id="ready"),
        pytest.param("/readyz", 0.0, False, 503, id="not ready"),
        pytest.param("/readyz?verbose", 0.0, True, 200, id="with a query"),
        pytest.param("/", 0.0, True, 404, id="no such page"),
    ],
)
def test_health_and_readiness(path: str, alive_s: float, ready: bool, status: int) -> None:
    """Health is about the loop, readiness about the partitions."""
    with served(alive_s=alive_s, ready=ready) as client:
        assert client.get(path).status_code == status


def test_an_address_in_use_is_a_configuration_error() -> None:
    """The message names the setting, and the way to do without."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        probe = Probe(Snapshot, lambda: 0.0, lambda: True)
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}.*HTTP_PORT"):
            serve("127.0.0.1", port, probe)
