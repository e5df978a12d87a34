"""Cutting history into slices. Pure: no clock, no database.

In: a range of moments and how many rows lie where, as far as statistics tell. Out: slices that follow each
other without gap or overlap and aim at the same number of rows. Guarantee: whatever the estimate, every
moment of the range lies in exactly one slice; a bad estimate costs time, never rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Final

Estimate = Callable[[int, int], float]
"""Rows between two moments (microseconds; lower inclusive, upper exclusive)."""

MAX_SLICES: Final = 2_000_000
"""Where a plan ends to be a plan; beyond that, slices get larger."""

SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Segment:
    """About `rows` rows, spread evenly over the moments from `lower_us` up to, but without, `upper_us`."""

    lower_us: int
    upper_us: int
    rows: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """A slice to copy: half-open, None is no bound; `estimate` is the expected number of rows."""

    lower_us: int | None
    upper_us: int | None
    estimate: int = 0


def density(lower_us: int, upper_us: int, estimate: Estimate, grain: float, probes: int) -> list[Segment]:
    """Halve the largest segment until none holds more than `grain` rows or the probes are used up."""
    heap = [_entry(Segment(lower_us, upper_us, estimate(lower_us, upper_us)))]
    while probes > 0 and -heap[0][0] > grain:
        largest = heap[0][2]
        middle = (largest.lower_us + largest.upper_us) // 2
        lower, upper = (
            Segment(start, stop, estimate(start, stop))
            for start, stop in ((largest.lower_us, middle), (middle, largest.upper_us))
        )
        heapq.heapreplace(heap, _entry(lower))
        heapq.heappush(heap, _entry(upper))
        probes -= 2
    return sorted((segment for _, _, segment in heap), key=lambda segment: segment.lower_us)


def _entry(segment: Segment) -> tuple[float, int, Segment]:
    """The largest segment comes first; a single moment has no halves and counts for nothing."""
    divisible = segment.upper_us - segment.lower_us > 1
    return (-segment.rows if divisible else 0.0, segment.lower_us, segment)


def cut(from_us: int | None, until_us: int | None, segments: Sequence[Segment], aim: float) -> list[Bounds]:
    """Slices of about `aim` rows over the whole range, which may reach beyond the segments."""
    total = sum(segment.rows for segment in segments)
    count = max(1, min(ceil(total / aim), MAX_SLICES))
    inner = [
        edge
        for edge in _quantiles(segments, total, count)
        if (from_us is None or edge > from_us) and (until_us is None or edge < until_us)
    ]
    return chain(from_us, until_us, inner, total)


def cut_evenly(bounds: Bounds, first_us: int, last_us: int, parts: int) -> list[Bounds]:
    """Cut one slice into up to `parts` of equal length, with edges among the moments that it holds.

    Args:
        bounds: the slice; what lies outside of its moments goes to its first and last part.
        first_us: the first moment that it holds.
        last_us: the last one; later than `first_us`.
        parts: how many are wanted, at least 2.
    """
    length = last_us - first_us
    inner = sorted({first_us + max(1, length * i // parts) for i in range(1, parts)})
    return chain(bounds.lower_us, bounds.upper_us, inner, bounds.estimate)


def chain(from_us: int | None, until_us: int | None, inner: Sequence[int], rows: float) -> list[Bounds]:
    """Slices between consecutive edges."""
    edges = [from_us, *inner, until_us]
    share = round(rows / (len(edges) - 1))
    return [Bounds(lower, upper, share) for lower, upper in pairwise(edges)]


def rows_aim(slice_rows: int, slice_cells: int, cells_per_row: float) -> float:
    """Rows per slice that keep both the number of rows and that of wide cells."""
    return max(1.0, min(slice_rows, slice_cells / max(cells_per_row, 1.0)))


def _quantiles(segments: Sequence[Segment], total: float, count: int) -> Iterator[int]:
    """Strictly rising moments that divide the rows of the segments into `count` equal parts."""
    before, number, last = 0.0, 1, None
    for segment in segments:
        while number < count and before + segment.rows >= (wanted := total * number / count):
            share = (wanted - before) / segment.rows if segment.rows else 0.0
            edge = _tidy(segment, segment.lower_us + int(share * (segment.upper_us - segment.lower_us)))
            if last is None or edge > last:
                yield edge
                last = edge
            number += 1
        before += segment.rows


def _tidy(segment: Segment, edge: int) -> int:
    """The whole second before an edge, if the segment reaches there: people read these."""
    whole = edge - edge % SECOND_US
    return whole if whole > segment.lower_us else edge
