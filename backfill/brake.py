"""The brake of a copy: looks at the source now and then, and what slows down a command that works alone.

In: what the source has to do, what was copied, and how long that took. Out: waiting. Guarantee:
whoever waits here has no transaction open and no slice claimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from backfill.pace import MIN_SHARE, PAUSED_S, Glance, Governor
from backfill.settings import Settings
from backfill.source_watch import SourceWatch
from widetable.errors import PartialError

SOURCE_LOOK_S: Final = 5.0
STEP_S: Final = 0.5
"""Of a rest: between two steps whoever rests looks again, at the source and for a signal."""


class Brake:
    """Looks at the source now and then, and says for which share of the time may be copied."""

    def __init__(self, settings: Settings, slow_down: Callable[[float], None]) -> None:
        section = settings.backfill
        self._governor = Governor(
            section.source_sessions, section.source_waits, section.slot_lag_bytes, section.governor
        )
        self._slow_down = slow_down
        self._source, self._glance = SourceWatch(settings.source), Glance(SOURCE_LOOK_S)

    def look(self, slot: str | None) -> str:
        """What slows the copy down now; while the source is away, what did."""
        if self._glance.due() and (load := self._source.look(slot)):
            self._governor.look(load)
            self._slow_down(self._governor.share)
        return self._governor.text

    def close(self) -> None:
        """End the session on the source."""
        self._source.close()


class LoneBrake:
    """For a command that does part after part in one process: `wait` before each, `rest` after it.

    Args:
        settings: where the source is, and what it can bear.
        slot: the slot that the stream reads; None where there is none.
        rows_per_s: rows that may be written per second; None for any number.
        tell: takes a line when what slows it down changes.
        nap: waits for some seconds, or until asked to stop.
        stopping: whether it was asked to stop.
    """

    def __init__(
        self,
        settings: Settings,
        slot: str | None,
        rows_per_s: float | None,
        tell: Callable[[str], object],
        *,
        nap: Callable[[float], object] = time.sleep,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._slot, self._rows_per_s, self._tell, self._nap, self._stopping = (
            slot,
            rows_per_s,
            tell,
            nap,
            stopping,
        )
        self._brake = Brake(settings, self._slow_down)
        self._share, self._told = 1.0, ""

    def wait(self) -> None:
        """Look at the source, and wait while the slot retains too much WAL.

        Raises:
            PartialError: asked to stop meanwhile.
        """
        while self._look() <= 0:
            if self._stopping():
                raise PartialError(f"stopped while it was {self._told}")
            self._nap(PAUSED_S)

    def rest(self, rows: int, worked_s: float) -> None:
        """Rest after a part, for the source and for the limit of rows per second, or until asked to stop.

        The source is looked at meanwhile: a rest that began while it was busy ends sooner when it is calm.

        Args:
            rows: rows of the part.
            worked_s: seconds that it took, without waiting for a database that was away.
        """
        for_limit_s = rows / self._rows_per_s - worked_s if self._rows_per_s else 0.0
        rested_s = 0.0
        while not self._stopping():
            for_source_s = worked_s * (1 / max(self._share, MIN_SHARE) - 1)
            if (left_s := max(for_source_s, for_limit_s) - rested_s) <= 0:
                return
            self._nap(nap_s := min(STEP_S, left_s))
            rested_s += nap_s
            if nap_s < left_s:
                self._look()

    def close(self) -> None:
        """End the session on the source."""
        self._brake.close()

    def _look(self) -> float:
        text = self._brake.look(self._slot)
        if text and text != self._told:
            self._tell(text)
        self._told = text
        return self._share

    def _slow_down(self, share: float) -> None:
        self._share = share
