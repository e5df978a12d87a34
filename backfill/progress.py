"""How far a run is: a bar on a terminal, log lines elsewhere, and a report for machines.

In: the plan's totals, now and then, and notes of the workers. Out: text on stderr; stdout stays free for the
answer.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from backfill.ledger import Totals
from widetable.logs import LogSettings

log = structlog.get_logger(__name__)

LINE_EVERY_S: Final = 5.0
WINDOW_S: Final = 30.0
"""Rows per second are those of this long: what ETA should follow."""


@dataclass(slots=True)
class Speed:
    """Rows per second over the last `WINDOW_S`."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def update(self, now_s: float, rows: int) -> float:
        """Note that `rows` rows are done at a time; returns the speed."""
        self.seen.append((now_s, rows))
        while len(self.seen) > 1 and self.seen[1][0] <= now_s - WINDOW_S:
            self.seen.popleft()
        start_s, start_rows = self.seen[0]
        return (rows - start_rows) / (now_s - start_s) if now_s > start_s else 0.0


class Display(Protocol):
    """Shows a run to whoever watches."""

    def show(self, totals: Totals, brake: str = "") -> None:
        """The plan as it is now, and what slows it down."""

    def note(self, text: str) -> None:
        """Something worth a line of its own."""

    def close(self) -> None:
        """Nothing more comes."""


class Bar:
    """A bar on a terminal; notes scroll above it."""

    def __init__(self, console: Console) -> None:
        self._speed = Speed()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("starting", total=None)
        self._bar.start()

    def show(self, totals: Totals, brake: str = "") -> None:
        """Move the bar: it measures rows, for slices differ."""
        text = describe(totals, self._speed.update(time.monotonic(), totals.run_rows), brake)
        whole = max(1, totals.rows + totals.rows_left)
        self._bar.update(self._task, description=text, total=whole, completed=totals.rows)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


class Lines:
    """A log line every few seconds."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._last_s = 0.0
        self._last_note = ""

    def show(self, totals: Totals, brake: str = "") -> None:
        """A line, if the last one is old enough."""
        now_s = time.monotonic()
        speed = self._speed.update(now_s, totals.run_rows)
        if now_s - self._last_s >= LINE_EVERY_S:
            self._last_s = now_s
            log.info(describe(totals, speed, brake))

    def note(self, text: str) -> None:
        """A line at once; the same one twice in a row is said once."""
        if text != self._last_note:
            log.warning(text)
        self._last_note = text

    def close(self) -> None:
        """Nothing to do."""


def display(settings: LogSettings) -> Display:
    """What suits stderr, and what was asked for: a bar is progress for people, as lines of level info are."""
    wanted = settings.format != "json" and settings.level in {"debug", "info"}
    return Bar(Console(stderr=True)) if wanted and sys.stderr.isatty() else Lines()


def describe(totals: Totals, rows_per_s: float, brake: str = "") -> str:
    """One line: slices, rows, speed, time left, what slows it down."""
    parts = [
        f"slices {totals.done:,}/{totals.slices:,}",
        f"{totals.rows:,} rows",
        f"{rows_per_s:,.0f} rows/s",
    ]
    if rows_per_s > 0 and totals.rows_left:
        parts.append(f"about {duration(totals.rows_left / rows_per_s)} left")
    if totals.failed:
        parts.append(f"{totals.failed:,} failed")
    if brake:
        parts.append(brake)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as a person reads them."""
    return str(timedelta(seconds=round(seconds)))


@dataclass(frozen=True, slots=True)
class Report:
    """What one run has done; rows are narrow ones, cells those that are in the target now."""

    rows: int
    cells: int
    slices: int
    seconds: float
    rows_per_second: float
    started_at: str
    ended_at: str

    @classmethod
    def of(cls, totals: Totals, started_at: datetime, seconds: float) -> Report:
        """The report of a run that began at `started_at` and took `seconds`."""
        return cls(
            rows=totals.run_rows,
            cells=totals.run_cells,
            slices=totals.run_slices,
            seconds=round(seconds, 3),
            rows_per_second=_rate(totals.run_rows, seconds),
            started_at=started_at.isoformat(),
            ended_at=datetime.now(UTC).isoformat(),
        )

    def followed_by(self, after: Report) -> Report:
        """Both together: a run goes on with an open plan, and then copies the ships that came later."""
        rows, seconds = self.rows + after.rows, self.seconds + after.seconds
        return Report(
            rows=rows,
            cells=self.cells + after.cells,
            slices=self.slices + after.slices,
            seconds=round(seconds, 3),
            rows_per_second=_rate(rows, seconds),
            started_at=self.started_at,
            ended_at=after.ended_at,
        )

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        values = {name: getattr(self, name) for name in self.__slots__}
        file.write_text(json.dumps(values, indent=2) + "\n")


def _rate(rows: int, seconds: float) -> float:
    return round(rows / seconds, 1) if seconds > 0 else 0.0
