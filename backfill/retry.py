"""Copying failed ranges again: those of a file, or the failed slices of the ledger.

In: ranges one after the other. Out: a tally, and what is left in the format that came in. Guarantee: a failed
slice of the ledger becomes done only after the data of all ships of its plan is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import psycopg

from backfill import ledger, plans
from backfill.app import require_hand_off_or_flag
from backfill.brake import LoneBrake
from backfill.copier import Copier
from backfill.failed_csv import BadRow, range_line, read_ranges
from backfill.ledger import Copied, FailedSlice
from backfill.planner import Bounds
from backfill.plans import Plan
from backfill.runner import Wish
from backfill.scope import choose_ships
from backfill.settings import Settings
from widetable.apply import Writer
from widetable.control import check_control
from widetable.errors import PartialError, RetryableError
from widetable.hand_off import streaming_hand_off
from widetable.postgres import Connection, connect_target

NAP_S: Final = 0.2
"""How long a signal may go unheard while something is waited for."""


@dataclass(frozen=True, slots=True)
class RetryRequest:
    """What a person asks for; no file is the ledger's failed slices."""

    file: Path | None = None
    ships: tuple[str, ...] = ()
    delay_s: float = 0.0
    rows_per_s: float | None = None
    dry_run: bool = False
    no_handoff: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """A range to copy again: where it stands, of which ships it is, and the lines that ask for it."""

    where: str
    ships: tuple[str, ...]
    bounds: Bounds
    lines: bytes


@dataclass(slots=True)
class Tally:
    """What became of the ranges."""

    done: int = 0
    failed: int = 0
    bad: int = 0
    untried: int = 0  # stopped before them
    passed_over: int = 0  # of ships that were not asked for
    rows: int = 0
    slices: int = 0  # of the ledger, done since

    @property
    def left(self) -> int:
        """Ranges that are still to be copied."""
        return self.failed + self.bad + self.untried


@dataclass(slots=True)
class FailedRange:
    """A failed slice of the ledger, and how much of it has been copied again."""

    plan: Plan
    failed: FailedSlice
    missing: set[str]
    copied: Copied = field(default_factory=Copied)


class Retry:
    """One retry: ranges in, tally out.

    Args:
        settings: where both databases are.
        request: what is asked for.
        wish: signals heard; the first one ends the retry after the range in work, or a part of it.
        tell: takes a line about a range that can't be copied.
        left: takes the lines of ranges that are left.
    """

    def __init__(
        self,
        settings: Settings,
        request: RetryRequest,
        wish: Wish,
        tell: Callable[[str], None],
        left: Callable[[bytes], object],
    ) -> None:
        self._settings, self._request, self._wish, self._tell, self._left = (
            settings,
            request,
            wish,
            tell,
            left,
        )
        with closing(connect_target(settings.target, "backfill retry")) as conn:
            check_control(conn, settings.target.control_schema)
            self._known = plans.live_ships(conn)
            self._ships = choose_ships(request.ships, self._known)
            hand_off = streaming_hand_off(conn, settings.pipeline.name)
            require_hand_off_or_flag(hand_off, no_handoff=request.no_handoff)
            self._failed = failed_ranges(conn, settings.pipeline.name, streams=hand_off is not None)
        slot, stopping = hand_off.slot if hand_off else None, lambda: wish.signals > 0
        self._copier = Copier(
            settings,
            streams=hand_off is not None,
            brake=LoneBrake(settings, slot, request.rows_per_s, tell, nap=self._nap, stopping=stopping),
            nap=self._nap,
            stopping=stopping,
        )
        self.tally = Tally()

    def run(self) -> Tally:
        """Copy range by range; what can't be copied, and what is not tried any more, is left.

        Raises:
            ConfigurationError, StoppedError, UnreachableError: nothing can be copied; all is left from there on.
        """
        file = self._request.file
        stopping: Exception | None = None
        with closing(self._copier):
            for item in self._of_ledger() if file is None else self._of_file(file):
                if isinstance(item, BadRow):
                    self._refuse(item)
                elif not set(item.ships) & set(self._ships):
                    self.tally.passed_over += 1
                elif stopping or self._wish.signals:
                    self._untried(item)
                else:
                    stopping = self._try(item)
        if stopping:
            raise stopping
        return self.tally

    def _of_file(self, path: Path) -> Iterator[Task | BadRow]:
        with path.open("rb") as file:
            for row in read_ranges(file, self._known):
                if isinstance(row, BadRow):
                    yield row
                else:
                    yield Task(f"{path}:{row.line_no}", (row.ship,), row.bounds, row.text)

    def _of_ledger(self) -> Iterator[Task]:
        for found in self._failed:
            ships = tuple(ship for ship in found.plan.scope.ships if ship in self._ships)
            lines = b"".join(range_line(ship, found.failed.bounds) for ship in ships)
            where = f"plan {found.plan.plan_id}, slice {found.failed.slice_no}"
            yield Task(where, ships, found.failed.bounds, lines)

    def _refuse(self, row: BadRow) -> None:
        if row.reason:  # the rest of a line that is too long has been told of
            self.tally.bad += 1
            self._tell(f"{self._request.file}:{row.line_no}: {row.reason}")
        self._left(row.text)

    def _untried(self, task: Task) -> None:
        self.tally.untried += 1
        self._left(task.lines)

    def _try(self, task: Task) -> Exception | None:
        """Copy a range; returns why nothing more can be copied, if so."""
        try:
            self._do(task)
        except Exception as error:  # noqa: BLE001 - one range must not cost the others
            self.tally.failed += 1
            self._tell(f"{task.where}: {error}")
            self._left(task.lines)
            only_this_range = isinstance(error, RetryableError | psycopg.Error | PartialError)
            return None if only_this_range else error
        return None

    def _do(self, task: Task) -> None:
        if self._request.dry_run:
            rows = self._copier.count(task.ships, task.bounds)
            self._tell(f"{task.where}: {rows:,} rows of {', '.join(task.ships)}")
        else:
            copied = self._copier.copy(task.ships, task.bounds)
            self._record(task, copied)
            rows = copied.rows
            self._nap(self._request.delay_s)
        self.tally.done += 1
        self.tally.rows += rows

    def _record(self, task: Task, copied: Copied) -> None:
        """Mark the failed slices that are whole now."""
        for found in self._failed:
            if found.failed.bounds == task.bounds and set(task.ships) & found.missing:
                found.missing -= set(task.ships)
                found.copied += copied
                if not found.missing:
                    self.tally.slices += self._copier.writer.run(partial(_mark, found))

    def _nap(self, seconds: float) -> None:
        """Wait, but not longer than until a signal is heard."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._wish.signals:
            time.sleep(min(left, NAP_S))


def failed_ranges(conn: Connection, pipeline: str, *, streams: bool) -> list[FailedRange]:
    """The failed slices of the plans that count, oldest plan first."""
    return [
        FailedRange(plan, failed, set(plan.scope.ships))
        for plan in plans.read_plans(conn, pipeline, with_hand_off=streams)
        for failed in ledger.failed_slices(conn, plan.plan_id)
    ]


def _mark(found: FailedRange, conn: Connection, _writer: Writer) -> int:
    """Record the slice, and close its plan if it was the last; 1, or 0 if another run has it by now."""
    marked = ledger.mark_retried(conn, found.plan.plan_id, found.failed, found.copied)
    ledger.finish(conn, found.plan.plan_id)
    return int(marked)
