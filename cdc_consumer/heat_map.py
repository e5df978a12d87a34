"""History as a map of ships and days: waiting, running, failed, done, verified. Pure.

In: slices of plans as spans of buckets (a bucket is a day, or several where history is long), and how far each
ship is verified. Out: one letter for each ship and bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

DAY_US: Final = 86_400_000_000
MOST_BUCKETS: Final = 92
"""So many columns fit a screen: longer histories get buckets of several days."""
LETTERS: Final = ".dwrf"
"""Nothing, done, waiting, running, failed: where slices share a day, the one that needs most attention shows."""
VERIFIED: Final = "v"
RANK: Final = {"done": 1, "waiting": 2, "running": 3, "failed": 4}


@dataclass(frozen=True, slots=True)
class Span:
    """The time that the map covers: `buckets` of `bucket_us` from `start_us` (a midnight) on."""

    start_us: int
    bucket_us: int
    buckets: int

    @classmethod
    def of(cls, first_us: int, end_us: int) -> Span:
        """The days from one moment to another, in buckets that are few enough to be seen."""
        start_us = first_us // DAY_US * DAY_US
        days = max(1, -(-(end_us - start_us) // DAY_US))
        bucket_days = -(-days // MOST_BUCKETS)
        return cls(start_us, bucket_days * DAY_US, -(-days // bucket_days))


@dataclass(frozen=True, slots=True)
class SliceSpan:
    """Slices of a plan that have the same state, first and last bucket."""

    plan_id: int
    state: str
    first: int
    last: int


def heat_map(
    span: Span,
    plans: Mapping[int, Iterable[str]],
    slices: Iterable[SliceSpan],
    verified_us: Mapping[str, int | None],
) -> dict[str, str]:
    """A string of letters for each ship of `verified_us`, one for each bucket."""
    by_plan = {plan_id: np.zeros(span.buckets, np.int64) for plan_id in plans}
    for part in slices:
        seen = by_plan[part.plan_id][max(0, part.first) : max(0, part.last) + 1]
        np.maximum(seen, RANK[part.state], out=seen)
    return {ship: _row(span, plans, by_plan, ship, through) for ship, through in verified_us.items()}


def _row(
    span: Span,
    plans: Mapping[int, Iterable[str]],
    by_plan: Mapping[int, np.ndarray[tuple[int], np.dtype[np.int64]]],
    ship: str,
    through_us: int | None,
) -> str:
    rank = np.zeros(span.buckets, np.int64)
    for plan_id, ships in plans.items():
        if ship in ships:
            np.maximum(rank, by_plan[plan_id], out=rank)
    ends_us = span.start_us + span.bucket_us * np.arange(1, span.buckets + 1)
    proven = np.zeros(span.buckets, bool) if through_us is None else ends_us <= through_us
    return "".join(
        VERIFIED if ok and number == RANK["done"] else LETTERS[number]
        for number, ok in zip(rank.tolist(), proven.tolist(), strict=True)
    )
