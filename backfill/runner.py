"""One run of a plan, as its parent process sees it: workers, ledger, signals, progress.

In: a plan. Out: its totals when no slice is open any more. Guarantee: Ctrl+C and SIGTERM end the run at the
end of a slice, or after a deadline; whatever was not done is resumed by the next run.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

import psycopg

from backfill import ledger
from backfill.brake import Brake
from backfill.crew import Crew
from backfill.job import Fatal
from backfill.ledger import Totals
from backfill.pace import Glance
from backfill.plans import Plan
from backfill.progress import Display
from backfill.settings import Settings
from widetable.control import use_control
from widetable.errors import (
    ConfigurationError,
    ExitCode,
    PartialError,
    StoppedError,
    UnreachableError,
    WideTableError,
)
from widetable.hand_off import streaming_hand_off
from widetable.postgres import Connection, connect_target

POLL_S: Final = 0.1
LOOK_S: Final = 0.5
CONNECT_TIMEOUT_S: Final = 2
"""Nobody who presses Ctrl+C waits for a database that is away."""
ERRORS: Final[dict[ExitCode, type[WideTableError]]] = {
    ExitCode.CONFIGURATION: ConfigurationError,
    ExitCode.UNREACHABLE: UnreachableError,
    ExitCode.STOPPED: StoppedError,
}


class _LeaveIt(BaseException):
    """Raised by a signal's handler within a look at the databases, which may wait for one that does not answer.

    Not an `Exception`, so that no look takes it for an error of its own.
    """


@dataclass(slots=True)
class Wish:
    """What a person asked for by signal: once to stop at the end of a slice, twice to stop now."""

    signals: int = 0
    looking: bool = False

    def hear(self, _number: int, _frame: FrameType | None) -> None:
        """Signal handler: counts, for it may interrupt anything; only a look is left at once."""
        self.signals += 1
        if self.looking:
            self.looking = False
            raise _LeaveIt


class Watch:
    """Reads the plan's totals; while the target is away, the last ones stand."""

    def __init__(self, settings: Settings, plan: Plan, run: str) -> None:
        self._settings, self._plan, self._run = settings, plan, run
        self._conn: Connection | None = None
        self._last = Totals(0, 0, 0, 0, 0, 0, 0)

    def look(self) -> Totals:
        """The totals now, or the last known."""
        try:
            self._last = self.read()
        except (psycopg.Error, UnreachableError):
            self.close()
        return self._last

    def read(self) -> Totals:
        """The totals now.

        Raises:
            UnreachableError: the target does not answer.
            psycopg.Error: the connection broke.
        """
        if self._conn is None:
            quick = self._settings.target.model_copy(update={"connect_timeout_s": CONNECT_TIMEOUT_S})
            self._conn = connect_target(quick, "backfill watch")
            use_control(self._conn, self._settings.target.control_schema)
        return ledger.totals(self._conn, self._plan.plan_id, self._run)

    def slot(self) -> str | None:
        """The slot that the stream reads; None where there is none, or the target is away."""
        if self._conn is None:
            return None
        try:
            hand_off = streaming_hand_off(self._conn, self._settings.pipeline.name)
        except psycopg.Error:
            return None
        return hand_off.slot if hand_off else None

    def conclude(self) -> Totals:
        """Close the plan if every slice is done; the totals at the end."""
        totals = self.read()
        if self._conn is not None:
            ledger.finish(self._conn, self._plan.plan_id)
        return totals

    def close(self) -> None:
        """End the session."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None


def run_plan(settings: Settings, plan: Plan, rows_per_s: float | None, display: Display) -> Totals:
    """Copy the open slices of a plan.

    Raises:
        ConfigurationError: a setting, right or table is wrong: no slice can be copied.
        StoppedError: the source is another cluster, or the hand-off changed under the copy.
        UnreachableError: the target went away at the very end; the next run closes the plan.
    """
    crew = Crew(settings, plan, rows_per_s)
    watch, brake = Watch(settings, plan, crew.run), Brake(settings, crew.slow_down)
    with listening() as wish, closing(watch), closing(brake):
        look(watch, brake, wish)  # before the first slice
        with crew:
            _supervise(settings, crew, watch, wish, display, brake)
        if crew.fatal:
            raise _error(crew.fatal)
        if wish.signals:
            watch.close()  # a session that hangs would hold the end up; a new one has its timeout
        return watch.conclude()


def look(watch: Watch, brake: Brake, wish: Wish) -> tuple[Totals, str] | None:
    """The totals and what slows the copy down; None where a signal came meanwhile."""
    try:
        wish.looking = True
        seen = watch.look(), brake.look(watch.slot())
        wish.looking = False
    except _LeaveIt:
        return None
    finally:
        wish.looking = False
    return seen


def _supervise(
    settings: Settings, crew: Crew, watch: Watch, wish: Wish, display: Display, brake: Brake
) -> None:
    """Until the last worker has ended."""
    deadline_s: float | None = None
    glance = Glance(LOOK_S)
    while crew.pids:
        for note in crew.listen(POLL_S):
            display.note(note.text)
        if glance.due() and not wish.signals and (seen := look(watch, brake, wish)):
            display.show(*seen)
        if wish.signals and deadline_s is None:
            display.note("stopping after the slices in work; once more to stop at once")
            deadline_s = time.monotonic() + settings.backfill.shutdown_s
            crew.stop()
        if deadline_s is not None and (wish.signals > 1 or time.monotonic() > deadline_s):
            crew.kill()


class UnfinishedError(PartialError):
    """A run was stopped before its end: slices are open, and another run goes on with them."""


def require_complete(totals: Totals) -> None:
    """Say what is not done.

    Raises:
        PartialError: slices were given up; `UnfinishedError` where some are still open.
        StoppedError: the plan is gone.
    """
    if totals.slices == 0:
        raise StoppedError(
            "The plan was removed while it ran: another `backfill run --replace` made a new one."
        )
    if totals.done + totals.failed < totals.slices:
        raise UnfinishedError(
            f"Stopped: {totals.done} of {totals.slices} slices are done;"
            " `backfill run` with the same flags goes on."
        )
    if totals.failed:
        raise PartialError(
            f"{totals.failed} of {totals.slices} slices failed; `backfill status` names the errors, and"
            " `backfill run` with the same flags tries them again."
        )


@contextmanager
def listening() -> Iterator[Wish]:
    """Hear SIGINT and SIGTERM instead of dying from them."""
    wish = Wish()
    former = {number: signal.signal(number, wish.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _error(fatal: Fatal) -> WideTableError:
    return ERRORS.get(fatal.exit_code, WideTableError)(fatal.text)
