"""The comparison: from sums per bucket down to cells, reporting only what rests and differs.

In: both sides, and a way to wait until the target is settled. Out: a `VerifyReport`. In order:

1. Hash every window at the source, note where the WAL ended after that, wait until the target is settled
   there, hash the same window at the target. The source reads ahead in a thread of its own.
2. In each bucket that differs, hash moment by moment; where a moment differs, compare its cells.
3. Let the `Judge` look at those cells again until it is sure.

Guarantee: a cell that differs, and goes on differing, is reported; one that merely changes or lags is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from widetable.errors import ConfigurationError
from widetable.verify.cells_sql import Sum
from widetable.verify.judge import Judge, Limits, Repair, Settle, same_value
from widetable.verify.report import MEANING, ShipResult, VerifyReport
from widetable.verify.scope import BUCKET_WIDTHS_US, Cell, Scope, Span, Window, cut
from widetable.verify.source import Source, Sums
from widetable.verify.target import Held, Target

MOMENTS_AT_ONCE: Final = 50
"""About 50,000 cells of each side in memory while a ship's cells are compared."""

Progress = Callable[[int, int, int], None]
"""Told after each window: windows done, windows in all, cells compared so far."""

Pace = Callable[[int], None]
"""Told how many cells were hashed; returns when there may be more."""

Ships = tuple[str, ...] | None


@dataclass(slots=True)
class Hashed:
    """What step 1 found; by ship where it says so."""

    buckets: int = 0
    cells: dict[str, int] = field(default_factory=dict)
    newest_us: dict[str, int] = field(default_factory=dict)
    differing: list[tuple[str, Span]] = field(default_factory=list)

    def add(self, window: Window, ours: Sums, theirs: dict[tuple[str, int], Sum]) -> None:
        """Count a window, and note the buckets that differ."""
        keys = ours.buckets.keys() | theirs.keys()
        self.buckets += len(keys)
        for ship, start_us in sorted(keys):
            here, there = ours.buckets.get((ship, start_us), Sum()), theirs.get((ship, start_us), Sum())
            self.cells[ship] = self.cells.get(ship, 0) + here.cells
            if here != there:
                self.differing.append((ship, window.bucket(start_us)))
        for ship, newest_us in ours.newest_us.items():
            self.newest_us[ship] = max(newest_us, self.newest_us.get(ship, newest_us))


class Verifier:
    """Compares a source with a target.

    Args:
        source: the narrow table.
        target: the wide tables.
        settle: waits until the target is settled at an LSN; None compares as it stands, which is right where
            nothing writes.
        limits: how much is read at once, kept and tried.
        progress: told of each window.
        repair: heals the cells found wrong; None leaves them.
        pace: called after each window that the source has hashed, with its cells, to wait before the next.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        settle: Settle | None,
        limits: Limits | None = None,
        progress: Progress = lambda _done, _all, _cells: None,
        repair: Repair | None = None,
        pace: Pace = lambda _cells: None,
    ) -> None:
        self._source = source
        self._target = target
        self._settle = settle
        self._limits = limits or Limits()
        self._progress = progress
        self._repair = repair
        self._pace = pace

    def run(self, scope: Scope) -> VerifyReport:
        """Compare all cells of `scope`.

        Raises:
            ConfigurationError: a ship that neither side knows; a standby as the source.
            RetryableError: a database went away.
            UnreachableError: the target did not settle in time.
        """
        started = time.monotonic()
        if self._settle:
            self._source.refuse_standby()
        ships = self._choose(scope.ships)
        extent = self._source.extent()
        beyond, span = scope.span.split(extent.lower_us if extent else scope.span.upper_us)
        hashed = self._hash(self._windows(span, extent, ships), ships)
        judge = Judge(self._source, self._target, self._settle, self._limits, self._repair)
        judge.counts["beyond_source"] = self._count(beyond, ships)
        complete = self._look_closer(hashed.differing, judge)
        judge.counts["cells_compared"] = sum(hashed.cells.values())
        judge.counts["overflow_pending"] = self._target.overflow_pending(scope.span, self._at_target(ships))
        return VerifyReport(
            ships=tuple(_result(ship, hashed, judge, scope.span, extent) for ship in sorted(hashed.cells)),
            buckets=hashed.buckets,
            seconds=time.monotonic() - started,
            differences=tuple(judge.differences),
            complete=complete,
            **{name: judge.counts[name] for name in MEANING},
        )

    def comparable(self, ships: Iterable[str]) -> tuple[str, ...]:
        """Those of the ships that a comparison of all would include."""
        known, new = self._target.ships(), self._target.policy.new_ships
        return tuple(ship for ship in ships if ship in known or (new and self._source.has_ship(ship)))

    def _choose(self, asked: Ships) -> Ships:
        """The ships to read at the source; None is all, also those that the target has never seen."""
        known = self._target.ships()
        unknown = [ship for ship in asked or () if ship not in known and not self._source.has_ship(ship)]
        if unknown:
            raise ConfigurationError(
                f"Neither side knows ship {', '.join(unknown)}. The target knows {', '.join(sorted(known))}."
            )
        return asked or (None if self._target.policy.new_ships else tuple(sorted(known)))

    def _at_target(self, ships: Ships) -> Sequence[str]:
        return sorted(self._target.ships()) if ships is None else ships

    def _windows(self, span: Span, extent: Span | None, ships: Ships) -> list[Window]:
        """Windows over the whole span; the estimate only knows about moments that the source has."""
        if span.empty:
            return []
        known = span.clip(extent or Span())
        if known.empty:
            return [Window(span, BUCKET_WIDTHS_US[0])]
        count = len(self._at_target(ships))
        windows = cut(known, lambda part: self._source.estimate(part, ships), self._limits.window_rows, count)
        last = windows[-1]
        return [*windows[:-1], replace(last, span=Span(last.span.lower_us, span.upper_us))]

    def _hash(self, windows: Sequence[Window], ships: Ships) -> Hashed:
        hashed = Hashed()
        with ThreadPoolExecutor(1, "verify-source") as ahead:
            try:
                readings = [ahead.submit(self._read_source, window, ships) for window in windows]
                for done, (window, reading) in enumerate(zip(windows, readings, strict=True), start=1):
                    ours, lsn = reading.result()
                    if self._settle:
                        self._settle(lsn)
                    hashed.add(
                        window, ours, self._target.sums(window.span, window.bucket_us, self._at_target(ships))
                    )
                    self._progress(done, len(windows), sum(hashed.cells.values()))
            except BaseException:  # also Ctrl+C: a query of minutes must not outlive it
                ahead.shutdown(wait=False, cancel_futures=True)
                self._source.cancel()
                raise
        return hashed

    def _read_source(self, window: Window, ships: Ships) -> tuple[Sums, int]:
        ours = self._source.sums(window.span, window.bucket_us, ships)
        lsn = self._source.lsn() if self._settle else 0
        self._pace(sum(bucket.cells for bucket in ours.buckets.values()))
        return ours, lsn

    def _count(self, span: Span, ships: Ships) -> int:
        if span.empty:
            return 0
        sums = self._target.sums(span, BUCKET_WIDTHS_US[0], self._at_target(ships))
        return sum(bucket.cells for bucket in sums.values())

    def _look_closer(self, differing: Sequence[tuple[str, Span]], judge: Judge) -> bool:
        """Find the cells that make buckets differ and let them be judged; False if stopped early."""
        suspects: list[Cell] = []
        for ship, span in differing:
            suspects += self._suspects(ship, span)
            if len(suspects) >= self._limits.suspects:
                judge.judge(suspects)
                suspects = []
                if self._limits.fail_fast and judge.wrong_count:
                    return False
        judge.judge(suspects)
        return True

    def _suspects(self, ship: str, span: Span) -> Iterator[Cell]:
        """The cells of a bucket that differ at this moment."""
        ours = self._source.sums(span, 1, [ship]).buckets
        theirs = self._target.sums(span, 1, [ship])
        moments = sorted(us for _, us in {key for key, _ in ours.items() ^ theirs.items()})
        for start in range(0, len(moments), MOMENTS_AT_ONCE):
            chunk = moments[start : start + MOMENTS_AT_ONCE]
            here, there = self._source.cells(ship, chunk), self._target.cells(ship, chunk)
            for cell in here.keys() | there.keys():
                if not same_value(here.get(cell), there.get(cell, Held()).value):
                    yield cell


def _result(ship: str, hashed: Hashed, judge: Judge, span: Span, extent: Span | None) -> ShipResult:
    """What is proven of a ship: all moments from the span's start up to the first that is not."""
    newest_us = hashed.newest_us.get(ship)
    unproven_us = judge.unproven_us.get(ship)
    ends = [us for us in (unproven_us, None if newest_us is None else newest_us + 1) if us is not None]
    gapless = extent is None or span.lower_us <= extent.lower_us
    return ShipResult(
        ship_id=ship,
        cells=hashed.cells[ship],
        agrees=unproven_us is None,
        from_us=None if gapless else span.lower_us,
        through_us=min([*ends, span.upper_us]) if ends else None,
    )
