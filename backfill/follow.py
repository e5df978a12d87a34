"""`backfill verify --follow`: the follower's sessions, pace, outages and signals, and a line for each event.

In: settings and flags. Out: lines on stdout until SIGTERM or SIGINT, then exit code 0, or 5 if cells are known to
differ. Guarantee: an outage of either database ends nothing; what was begun is begun again.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Event
from typing import Any, Final

import click
import psycopg

from backfill.grace import within_grace
from backfill.settings import Settings
from widetable.command_line import named
from widetable.control import check_control
from widetable.errors import PartialError, RetryableError, UnreachableError
from widetable.postgres import connect_source, connect_target
from widetable.resync import CellKey, Resync
from widetable.settled import wait_settled
from widetable.verify import Follower, Leisure, Limits, Memory, Recheck, Source, Target, Verifier

APPLICATION: Final = "backfill verify --follow"
CELLS_PER_S: Final = 50_000
"""About a tenth of what two databases hash: a burden that nobody notices."""
WINDOW_ROWS: Final = 100_000
"""What one query hashes: a tenth of a second of work at a time."""
PIECE_S: Final = 60.0
"""Of reading at that pace: the wait until the target is settled weighs little then."""
REPAIRED_AT_MOST: Final = 50_000
"""Cells per look: the stream stands still for a moment at every 5,000."""
IDLE_S: Final = 1.0
MAX_WAIT_S: Final = 30.0
WAITING_S: Final = 60.0
"""Between two lines that say the same of a wait."""

Tell = Callable[[dict[str, Any]], None]


class EndedError(Exception):
    """A signal asked to end: nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Following:
    """What was asked for.

    Attributes:
        settle_timeout_s: seconds to wait for the consumer; None doesn't wait at all.
        cells_per_s: cells that are read at the source per second, on average.
        differences: how many are told of each look; all are counted.
        leisure: how time is divided; by default, pieces of a minute each.
        repair: resync the cells found wrong.
    """

    settle_timeout_s: float | None
    cells_per_s: float = CELLS_PER_S
    differences: int = 100
    leisure: Leisure = field(default_factory=Leisure)
    repair: bool = False


class Pacer:
    """Lets so many cells per second through; ends when asked to."""

    def __init__(self, cells_per_s: float, stop: Event) -> None:
        self._cells_per_s = cells_per_s
        self._stop = stop
        self._free_at = 0.0

    def spend(self, cells: int) -> None:
        """Account for cells that were read, and wait until they are paid for."""
        self._free_at = max(self._free_at, time.monotonic()) + cells / self._cells_per_s
        self.pause(self._free_at - time.monotonic())

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            EndedError: a signal came.
        """
        if self._stop.wait(max(0.0, seconds)):
            raise EndedError


@dataclass(slots=True)
class Healing:
    """Repairs so many cells per look: those of a whole range that was never copied are not for a resync."""

    resync: Resync
    left: int = REPAIRED_AT_MOST

    def heal(self, cells: Collection[CellKey]) -> None:
        """Repair what the look may still repair; the rest differs until it is looked at again."""
        chosen = sorted(cells)[: self.left]
        self.left -= len(chosen)
        self.resync.heal(chosen)


def run_following(settings: Settings, asked: Following, tell: Tell) -> None:
    """Follow until a signal.

    Raises:
        PartialError: cells were known to differ at the end.
        ConfigurationError, StoppedError: no use in going on.
    """
    stop, memory, waits = Event(), Memory(), Waits()
    with within_grace(settings.backfill.shutdown_s), _ended_by_signals(stop):
        while not stop.is_set():
            try:
                with _follower(settings, asked, memory, stop, waits.heard(tell)) as (follower, healing):
                    while not stop.is_set():
                        healing.left = REPAIRED_AT_MOST
                        busy = follower.round()
                        waits.over()
                        stop.wait(0 if busy else IDLE_S)
            except EndedError:
                break
            except Exception as error:
                passing = _passing(error)
                if passing is None:
                    raise
                tell({"event": "outage", "what": str(passing)})
                stop.wait(waits.next_s())
    tell({"event": "ended", "in_doubt": len(memory.doubts)})
    if memory.doubts:
        raise PartialError(f"source and target do not agree in {len(memory.doubts)} stretches")


@dataclass(slots=True)
class Waits:
    """How long to wait after an outage, and which waits were told already."""

    outages: int = 0
    _told: tuple[Any, float] = (None, 0.0)

    def over(self) -> None:
        """A round went well."""
        self.outages = 0

    def next_s(self) -> float:
        """Seconds; longer after each outage in a row."""
        self.outages += 1
        return float(min(MAX_WAIT_S, 2.0 ** min(self.outages - 1, 10)))

    def heard(self, tell: Tell) -> Tell:
        """Pass events on, but the same wait only now and then."""

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "waiting":
                former, at = self._told
                if former == event and time.monotonic() - at < WAITING_S:
                    return
                self._told = dict(event), time.monotonic()
            tell(event)

        return hear


@contextmanager
def _follower(
    settings: Settings, asked: Following, memory: Memory, stop: Event, tell: Tell
) -> Iterator[tuple[Follower, Healing]]:
    """A follower on new sessions."""
    pipeline, pacer = settings.pipeline.name, Pacer(asked.cells_per_s, stop)
    with (
        closing(connect_source(settings.source, APPLICATION)) as source_conn,
        closing(connect_target(settings.target, APPLICATION)) as target_conn,
        closing(Resync(settings.source, settings.target, pipeline)) as resync,
    ):
        check_control(target_conn, settings.target.control_schema)
        recheck = Recheck(target_conn, pipeline)
        recheck.enter()
        source, target = (
            Source(source_conn, settings.source.table),
            Target(target_conn, settings.target.control_schema),
        )
        healing = Healing(resync)

        def settle(lsn: int) -> None:
            if asked.settle_timeout_s is not None:
                wait_settled(target_conn, pipeline, lsn, asked.settle_timeout_s, pacer.pause)

        verifier = Verifier(
            source,
            target,
            None if asked.settle_timeout_s is None else settle,
            Limits(window_rows=WINDOW_ROWS, differences=asked.differences),
            lambda _done, _all, _cells: pacer.pause(0),
            healing.heal if asked.repair else None,
            pacer.spend,
        )
        piece_rows = min(asked.leisure.piece_rows, max(WINDOW_ROWS, int(asked.cells_per_s * PIECE_S)))
        leisure = replace(asked.leisure, piece_rows=piece_rows)
        yield Follower(source, target, recheck, verifier, leisure, memory, tell), healing


def _passing(error: Exception) -> Exception | None:
    """What an exception stands for if it may pass by itself; tables may come and go beside us."""
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return error
    known = named(error)
    return known if isinstance(known, RetryableError | UnreachableError) else None


@contextmanager
def _ended_by_signals(stop: Event) -> Iterator[None]:
    """The first signal asks to end, once the query under way is answered; a second one ends at once."""

    def hear(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, former[number])

    former = {int(number): signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


# -- what is printed ------------------------------------------------------------------------------------------


def print_json(event: dict[str, Any]) -> None:
    """An object per line."""
    click.echo(json.dumps({"time": _now(), **event}))


def print_text(event: dict[str, Any]) -> None:
    """A line for a person."""
    click.echo(f"{_now()}  {line(event)}")


def line(event: dict[str, Any]) -> str:
    """What happened, in words."""
    match event["event"]:
        case "looked":
            return _looked(event)
        case "difference":
            values = f"source {event['source']!r}, target {event['target']!r}"
            place = f"{event['ship_id']}  {event['created_time']}  {event['channel_id']}"
            return f"{event['kind']}  {place}: {values}"
        case "lap":
            verdict = "all agrees" if event["agrees"] else "not all agreed"
            return f"lap {event['laps']} is finished after {event['seconds']:,.0f} s: {verdict}"
        case "waiting":
            return f"waiting: {event['for']}"
        case "outage":
            return f"trying again soon: {event['what']}"
        case _:
            return f"ended; {event['in_doubt']} stretches are in doubt"


def _looked(event: dict[str, Any]) -> str:
    until = event["until"] or "the end"
    share = f" ({event['done']:.0%} of the lap)" if "done" in event else ""
    counts = [f"{event['cells_compared']:,} cells of {event['ships']} ships"]
    counts += [
        f"{event[name]:,} {name}" for name in ("missing", "different", "phantom", "repaired", "unsettled")
    ]
    told = f"{event['at']}{share} {event['from']} to {until}: {', '.join(counts)}; {event['seconds']:.1f} s"
    return f"{told}; verified through {event['verified_through'] or 'nothing yet'}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
