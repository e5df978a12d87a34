"""The last hour in figures, kept in memory by the parent: what the status page draws."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from cdc_consumer.metrics import Snapshot

EVERY_S: Final = 20.0
POINTS: Final = 180


@dataclass(frozen=True, slots=True)
class Point:
    """Counts at a time, and the lateness of the latest partition then."""

    at_s: float
    samples: int
    rows: int
    late_s: float


@dataclass(slots=True)
class Rates:
    """One point every `EVERY_S`; an hour of them."""

    points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS + 1))

    def note(self, counts: Snapshot, now_s: float) -> None:
        """Remember the counts as they are."""
        rows = counts.applied.rows_new + counts.applied.rows_merged
        late_s = max(counts.late_s.values(), default=0.0)
        self.points.append(Point(now_s, counts.applied.events, rows, late_s))

    def series(self) -> dict[str, list[float]]:
        """Samples and rows per second between two points, and lateness at the later one; oldest first."""
        pairs = [
            (one, two, two.at_s - one.at_s) for one, two in pairwise(list(self.points)) if two.at_s > one.at_s
        ]
        return {
            "samples_per_s": [round((two.samples - one.samples) / seconds, 1) for one, two, seconds in pairs],
            "rows_per_s": [round((two.rows - one.rows) / seconds, 1) for one, two, seconds in pairs],
            "late_s": [round(two.late_s, 1) for _, two, _ in pairs],
        }
