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

from cdc_consumer.metrics import BUCKETS_MS, Latencies, Snapshot
from cdc_consumer.monitor import STALLED_S, Probe, serve
from widetable.applied import Applied
from widetable.errors import ConfigurationError


@contextmanager
def served(
    counts: Snapshot | None = None, alive_s: float = 0.0, *, ready: bool = True
) -> Iterator[httpx.Client]:
    """A client of a server that tells these facts."""
    probe = Probe(lambda: counts or Snapshot(), lambda: alive_s, lambda: ready)
    server: ThreadingHTTPServer = serve("127.0.0.1", 0, probe)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
            yield client
    finally:
        server.shutdown()
        server.server_close()


def samples(counts: Snapshot) -> dict[str, float]:
    """What /metrics says, by name and labels."""
    with served(counts) as client:
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
