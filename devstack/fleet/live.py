"""Live load: bursts written at a chosen rate, with all that happens to a narrow table while they come.

In: plan, start, the span of history, a rate. Out: committed changes and their exact count. A load runs in a
thread of its own (`start`, `stop`) or in the caller's (`write_bursts`).
"""

from __future__ import annotations

import math
import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from devstack.fleet.bursts import minute_of
from devstack.fleet.database import Connection, fleet_session
from devstack.fleet.plan import FleetPlan
from devstack.fleet.report import LiveReport, Tally
from devstack.fleet.script import LiveScript, Mix
from devstack.fleet.steps import STAGE_SQL, Step, run_steps

STOP_TIMEOUT_S: Final = 60.0


class LiveLoad:
    """Writes bursts until stopped. Only one load may write the same ships at a time.

    Each burst is a ship's minute and one transaction, and the changes of older cells that follow it are
    another; ships take turns. Moments run on from `start` with the bursts, not with the clock.

    Args:
        dsn: the source database.
        fleet: whose samples to write.
        start: first moment to write, rounded down to its minute (UTC if naive).
        history: first moment and upper bound of what is already there; half of the corrections go to it.
        rows_per_second: pace of the bursts, `fleet.rows_per_second` is real time; infinite: no pause.
        mix: how many other changes go with a burst.
    """

    def __init__(
        self,
        dsn: str,
        fleet: FleetPlan,
        *,
        start: datetime,
        history: tuple[datetime, datetime] | None = None,
        rows_per_second: float = math.inf,
        mix: Mix | None = None,
    ) -> None:
        span = range(minute_of(history[0]), minute_of(history[1])) if history else range(0)
        self._dsn = dsn
        self._script = LiveScript(fleet, minute_of(start), span, mix or Mix())
        self._rows_per_second = rows_per_second
        self._tally = Tally()
        self._bursts = 0
        self._rows = 0
        self._started_at = self._ended_at = datetime.now(UTC)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> Self:
        """Begin to write in a thread of its own; returns once the database has answered.

        Raises:
            UnreachableError: it did not.
        """
        self._thread = threading.Thread(target=self._run_guarded, name="fleet-live", daemon=True)
        self._thread.start()
        self._ready.wait()
        self._raise_error()
        return self

    def request_stop(self) -> None:
        """Ask the load to end after its present burst, without waiting (for signal handlers)."""
        self._stopping.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the load has ended by itself or was asked to; False if it still runs."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> LiveReport:
        """Finish the present burst, and report.

        Raises:
            WideTableError: what ended the load before its time.
            TimeoutError: the burst does not end, for instance because it waits for a lock.
        """
        self.request_stop()
        if not self.wait(timeout_s):
            raise TimeoutError(
                f"The live load has not finished its burst after {timeout_s:.0f} s; who locks the table?"
            )
        self._raise_error()
        return self.report()

    def write_bursts(self, count: int) -> LiveReport:
        """Write `count` bursts in the caller's thread, and report all since the load was made."""
        self._run(self._bursts + count)
        return self.report()

    def report(self) -> LiveReport:
        """What has been committed so far."""
        running = self._thread is not None and self._thread.is_alive()
        ended_at = datetime.now(UTC) if running else self._ended_at
        return LiveReport.of(self._tally, self._bursts, self._started_at, ended_at)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:  # the first error is the one to tell
            self.request_stop()
            self.wait(STOP_TIMEOUT_S)

    def _run_guarded(self) -> None:
        try:
            self._run(None)
        except BaseException as error:  # noqa: BLE001  handed to whoever calls start or stop
            self._error = error
        finally:
            self._ready.set()

    def _run(self, last_burst: int | None) -> None:
        try:
            with fleet_session(self._dsn) as conn:
                conn.execute(STAGE_SQL)
                conn.commit()
                self._ready.set()
                self._write(conn, last_burst)
        finally:
            self._ended_at = datetime.now(UTC)

    def _write(self, conn: Connection, last_burst: int | None) -> None:
        began, rows_before = time.monotonic(), self._rows
        while self._bursts != last_burst:
            due_s = (self._rows - rows_before) / self._rows_per_second
            if self._stopping.wait(max(0.0, began + due_s - time.monotonic())):
                return
            steps = self._script.burst()
            self._apply(conn, steps)
            self._apply(conn, self._script.corrections())
            self._rows += len(steps[0].cells)
            self._bursts += 1

    def _apply(self, conn: Connection, steps: list[Step]) -> None:
        """One transaction; it counts once it is committed."""
        tally, deleted = run_steps(conn, steps)
        conn.commit()
        self._tally += tally
        self._script.remember_deleted(deleted)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
