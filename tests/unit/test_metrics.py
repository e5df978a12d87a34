"""Counts of several processes become one sum; latencies keep their quantiles."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from cdc_consumer.metrics import BUCKETS_MS, Latencies, Sizes, Snapshot, combined, runs
from widetable.applied import Applied


def latencies(*milliseconds: int) -> Latencies:
    """A histogram of these."""
    found = Latencies()
    found.add(np.array(milliseconds, np.int64))
    return found


def sizes(*samples: int) -> Sizes:
    """A histogram of batches of these."""
    found = Sizes()
    for each in samples:
        found.add(each)
    return found


def filled(seed: int) -> Snapshot:
    """A snapshot in which every field differs from zero and from every other snapshot's."""
    numbers = iter(range(seed, seed + 100))
    plain: dict[str, Any] = {field.name: next(numbers) for field in fields(Snapshot) if field.type == "int"}
    return Snapshot(
        **plain,
        filtered=Counter(placeholder=next(numbers), deletes=next(numbers)),
        applied=Applied(*(next(numbers) for _ in fields(Applied))),
        ops=Counter(create=next(numbers)),
        stage_us=Counter(decode=next(numbers)),
        batch_sizes=sizes(next(numbers)),
        capture_ms=latencies(next(numbers)),
        transport_ms=latencies(next(numbers)),
        apply_ms=latencies(next(numbers), next(numbers)),
        total_ms=latencies(next(numbers)),
        busy_s=float(next(numbers)),
        lag={seed: next(numbers)},
        late_s={seed: float(next(numbers))},
        positions={seed: next(numbers)},
        ready=True,
    )


def test_combined_sums_every_count() -> None:
    """A field that is added to the snapshot and forgotten in the sum fails here."""
    one, two = filled(1), filled(1_000)
    total = combined([one, two])
    for field in fields(Snapshot):
        if field.type in ("int", "float"):
            expected = getattr(one, field.name) + getattr(two, field.name)
            assert getattr(total, field.name) == expected, field.name
        if field.type == "Counter[str]":
            expected = getattr(one, field.name) + getattr(two, field.name)
            assert getattr(total, field.name) == expected, field.name
        if field.type.startswith("dict"):
            assert getattr(total, field.name) == getattr(one, field.name) | getattr(two, field.name)
        if field.type in ("Latencies", "Sizes"):
            parts = [getattr(each, field.name).counts for each in (one, two)]
            assert getattr(total, field.name).counts.tolist() == sum(parts).tolist(), field.name
    assert total.batch_sizes.total == one.batch_sizes.total + two.batch_sizes.total
    assert total.applied == one.applied + two.applied


def test_what_was_true_of_a_process_ends_with_it() -> None:
    """Its counts stay; nothing waits in it any more, and it keeps nobody from being ready."""
    gone = filled(1)
    gone.ready = False
    gone.end()
    assert (gone.lag, gone.late_s, gone.positions) == ({}, {}, {})
    assert (gone.held_rows, gone.held_events, gone.held_bytes, gone.schemas, gone.unclaimed) == (0,) * 5
    assert gone.ready
    assert gone.polled == filled(1).polled


def test_combined_leaves_its_parts_as_they_were() -> None:
    """The parent sums the same snapshots again with every scrape."""
    parts = [filled(1), filled(1_000)]
    before = pickle.dumps(parts)
    combined(parts)
    assert pickle.dumps(parts) == before


@pytest.mark.parametrize(
    ("ready", "expected"),
    [([], True), ([True, True], True), ([True, False], False)],
    ids=["no process", "all", "one is not"],
)
def test_all_processes_must_be_ready(ready: list[bool], expected: bool) -> None:
    """One process that still waits for its ledger rows is enough to say no."""
    assert combined(Snapshot(ready=each) for each in ready).ready is expected


def test_a_snapshot_survives_the_pipe() -> None:
    """It travels from the worker to the parent, and fits in the pipe's buffer many times over."""
    sent = pickle.dumps(filled(1))
    assert pickle.dumps(pickle.loads(sent)) == sent  # noqa: S301 - our own bytes
    assert len(sent) < 8_192


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_is_at_most_one_bucket_too_high(share: float) -> None:
    """Buckets are 12 % wide, and the upper bound is told: never better than it was."""
    seen = np.random.default_rng(1).lognormal(6, 2, 10_000).astype(np.int64) + 1
    exact = float(np.quantile(seen, share, method="inverted_cdf"))
    told = latencies(*seen.tolist()).quantile(share)
    assert told is not None
    assert exact <= told <= exact * 1.13 + 1


def test_a_quantile_of_nothing_is_none() -> None:
    """Not zero: nothing was fast."""
    assert Latencies().quantile(0.5) is None


def test_a_quantile_of_one_event_is_its_bucket() -> None:
    """Empty buckets below it are no answer."""
    assert latencies(1_000).quantile(0.01) == pytest.approx(1_000, rel=0.13)


def test_latencies_beyond_the_last_bucket_are_counted() -> None:
    """Three hours behind is far, but not nothing."""
    late = latencies(10**9)
    assert late.counts.sum() == 1
    assert late.quantile(0.5) == BUCKETS_MS[-1]


def test_runs_of_equal_times_count_as_their_events() -> None:
    """A batch of many samples costs few looks at the buckets, and no sample is lost."""
    kafka = np.array([5, 5, 5, 9, 9, 9], np.int64)
    source = np.array([1, 1, 2, 2, 2, 2], np.int64)
    starts, lengths = runs(kafka, source)
    assert (starts.tolist(), lengths.tolist()) == ([0, 2, 3], [2, 1, 3])
    found, each = Latencies(), Latencies()
    found.add(1_000 * kafka[starts], lengths)
    each.add(1_000 * kafka)
    assert found.counts.tolist() == each.counts.tolist()
    assert [part.tolist() for part in runs(np.zeros(0, np.int64))] == [[], []]


def test_no_events_are_no_latencies() -> None:
    """A batch of dead cells only."""
    found = latencies()
    assert found.counts.sum() == 0


def test_a_report_that_is_too_old_leaves_its_counts_only() -> None:
    """What it said of partitions may be another's now; the report itself is not changed."""
    report = filled(1)
    old = report.outlived()
    assert (old.lag, old.late_s, old.positions, old.unclaimed, old.ready) == ({}, {}, {}, 0, False)
    assert (old.polled, old.batches) == (report.polled, report.batches)
    assert report.lag
    assert report.ready
