"""Slices: whatever the estimate says, each moment of a range lies in exactly one of them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backfill.planner import Bounds, Segment, cut, cut_evenly, density
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US

moments = st.integers(FIRST_MOMENT_US, LAST_MOMENT_US)
near_moments = st.integers(0, 10**9)
spans = st.tuples(moments | near_moments, moments | near_moments).filter(lambda span: span[0] != span[1])
counts = st.floats(0, 1e12, allow_nan=False)


@st.composite
def segment_lists(draw: st.DrawFn) -> list[Segment]:
    """Segments in order, with gaps, without overlap."""
    edges = sorted(draw(st.lists(moments | near_moments, unique=True, max_size=20)))
    return [
        Segment(lower, upper, draw(counts))
        for lower, upper in list(pairwise(edges))[:: draw(st.integers(1, 2))]
    ]


def require_partition(parts: list[Bounds], lower_us: int | None, upper_us: int | None) -> None:
    """The parts follow each other from the lower bound to the upper one, and none is empty."""
    assert parts[0].lower_us == lower_us
    assert parts[-1].upper_us == upper_us
    for one, two in pairwise(parts):
        assert one.upper_us is not None
        assert one.upper_us == two.lower_us
    for part in parts:
        if part.lower_us is not None and part.upper_us is not None:
            assert part.lower_us < part.upper_us


@given(segment_lists(), st.none() | moments, st.none() | moments, st.floats(1e3, 1e13))
def test_slices_partition_their_range(
    segments: list[Segment], from_us: int | None, until_us: int | None, aim: float
) -> None:
    """Without gap, without overlap, with the range's own ends: also where the segments know nothing."""
    if from_us is not None and until_us is not None and from_us >= until_us:
        from_us, until_us = until_us, from_us + 1
    aim = max(aim, sum(segment.rows for segment in segments) / 1_000)
    require_partition(cut(from_us, until_us, segments, aim), from_us, until_us)


@given(segment_lists(), st.integers(1, 200))
def test_slices_hold_what_they_aim_at(segments: list[Segment], count: int) -> None:
    """Where rows are spread evenly over wide segments, no slice holds much more than its share."""
    wide = [part for part in segments if part.upper_us - part.lower_us > 10**9 and part.rows > 1]
    total = sum(part.rows for part in wide)
    if not wide:
        return
    aim = total / count
    for bounds in cut(None, None, wide, aim):
        # An edge moves by less than a second of segments that are at least 1,000 s long.
        assert sum(_rows_within(part, bounds) for part in wide) <= 1.01 * aim + 0.002 * total


def _rows_within(segment: Segment, bounds: Bounds) -> float:
    lower = segment.lower_us if bounds.lower_us is None else max(bounds.lower_us, segment.lower_us)
    upper = segment.upper_us if bounds.upper_us is None else min(bounds.upper_us, segment.upper_us)
    return segment.rows * max(0, upper - lower) / (segment.upper_us - segment.lower_us)


@given(st.none() | moments, st.none() | moments, spans, st.integers(2, 50))
def test_a_split_partitions_the_slice_and_parts_its_moments(
    lower_us: int | None, upper_us: int | None, span: tuple[int, int], parts: int
) -> None:
    """The parts cover the slice; its first and last moment are never in the same part, so splitting ends."""
    first_us, last_us = min(span), max(span)
    lower_us = None if lower_us is None else min(lower_us, first_us)
    upper_us = None if upper_us is None else max(upper_us, last_us + 1)
    children = cut_evenly(Bounds(lower_us, upper_us, 1_000), first_us, last_us, parts)
    require_partition(children, lower_us, upper_us)
    assert 2 <= len(children) <= parts
    first, last = (
        next(
            number
            for number, child in enumerate(children)
            if (child.lower_us is None or child.lower_us <= moment_us)
            and (child.upper_us is None or moment_us < child.upper_us)
        )
        for moment_us in (first_us, last_us)
    )
    assert first != last


@given(spans, st.lists(near_moments, max_size=50), st.floats(0.5, 20), st.integers(2, 200))
def test_density_keeps_every_row_and_asks_no_more_than_allowed(
    span: tuple[int, int], rows: list[int], grain: float, probes: int
) -> None:
    """Halving loses no row of an exact estimate, ends at single moments, and keeps to its budget."""
    lower_us, upper_us = min(span), max(span)
    asked = 0

    def estimate(start: int, stop: int) -> float:
        nonlocal asked
        asked += 1
        return sum(start <= row < stop for row in rows)

    segments = density(lower_us, upper_us, estimate, grain, probes)
    assert asked <= probes + 2
    assert (segments[0].lower_us, segments[-1].upper_us) == (lower_us, upper_us)
    assert all(one.upper_us == two.lower_us for one, two in pairwise(segments))
    assert sum(part.rows for part in segments) == sum(lower_us <= row < upper_us for row in rows)


@given(spans, st.integers(2, 200))
def test_density_ends_whatever_the_estimate(span: tuple[int, int], probes: int) -> None:
    """An estimator that always says "too many" costs its budget and no more."""
    segments = density(min(span), max(span), lambda _start, _stop: 1e9, 1.0, probes)
    assert len(segments) <= probes + 1
