"""What is compared: ships and a range of moments, cut into windows that one query each can hash. Pure.

Moments are microseconds since 1970, as in `NarrowBatch`; infinity and what lies beyond it are dead cells by
contract and outside of every span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US

MINUTE_US: Final = 60_000_000
BUCKET_WIDTHS_US: Final = tuple(MINUTE_US * minutes for minutes in (1440, 360, 60, 15, 5, 1))
"""Widths that divide a day, widest first: PostgreSQL's date_bin then never leaves the range of timestamps."""

BUCKET_CELLS: Final = 300_000
"""What a bucket should hold at most: its moments are hashed again when it differs."""


class Cell(NamedTuple):
    """One channel of one ship at one moment."""

    ship_id: str
    moment_us: int
    channel_id: str


@dataclass(frozen=True, slots=True)
class Span:
    """Moments from `lower_us` up to, but without, `upper_us`."""

    lower_us: int = FIRST_MOMENT_US
    upper_us: int = LAST_MOMENT_US + 1

    def clip(self, other: Span) -> Span:
        """The moments that lie in both; empty where `lower_us` >= `upper_us`."""
        return Span(max(self.lower_us, other.lower_us), min(self.upper_us, other.upper_us))

    def split(self, at_us: int) -> tuple[Span, Span]:
        """What lies before a moment, and the rest; either may be empty."""
        return Span(self.lower_us, min(self.upper_us, at_us)), Span(max(self.lower_us, at_us), self.upper_us)

    @property
    def empty(self) -> bool:
        """Whether it holds no moment."""
        return self.lower_us >= self.upper_us


@dataclass(frozen=True, slots=True)
class Scope:
    """What to compare: these ships (None: all) at these moments."""

    ships: tuple[str, ...] | None = None
    span: Span = Span()


@dataclass(frozen=True, slots=True)
class Window:
    """A span that is hashed by one query per source and wide table, in buckets of `bucket_us`."""

    span: Span
    bucket_us: int

    def bucket(self, start_us: int) -> Span:
        """The part of the window that lies in the bucket starting at `start_us`."""
        return self.span.clip(Span(start_us, start_us + self.bucket_us))


Estimate = Callable[[Span], int]
"""About how many source rows lie in a span."""


def cut(span: Span, estimate: Estimate, window_rows: int, ships: int) -> list[Window]:
    """Halve `span` until no part holds much more than `window_rows`; parts follow each other without a gap.

    A wrong estimate makes a window slow or a bucket large, never wrong.
    """
    rows = estimate(span)
    middle = (span.lower_us + span.upper_us) // 2
    if rows <= window_rows or span.upper_us - span.lower_us <= MINUTE_US:
        return [Window(span, bucket_width(rows, span, ships))]
    halves = (Span(span.lower_us, middle), Span(middle, span.upper_us))
    return [window for half in halves for window in cut(half, estimate, window_rows, ships)]


def bucket_width(rows: int, span: Span, ships: int) -> int:
    """The widest bucket that should hold no more than `BUCKET_CELLS` of one ship."""
    cells_per_us = rows / max(1, ships) / (span.upper_us - span.lower_us)
    fitting = [width for width in BUCKET_WIDTHS_US if cells_per_us * width <= BUCKET_CELLS]
    return fitting[0] if fitting else BUCKET_WIDTHS_US[-1]
