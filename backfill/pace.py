"""What slows a copy down on purpose: the rate limit, a source that is busy, WAL that the replication slot retains.

The run's parent looks at the source now and then, and decides which share of the time its workers may copy;
they rest accordingly between slices. Guarantee: a worker waits with no slice claimed and no transaction open.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Final

DEFAULT_LAG_BYTES: Final = 10 * 1024**3
BUDGET_SHARE: Final = 0.5
"""Of max_slot_wal_keep_size: beyond it the slot is lost, and the live side needs room, too."""

MIN_SHARE: Final = 1 / 16
"""History goes on, however busy the source is: else a source that is always busy would never be copied."""
FASTER: Final = 1.5
"""Down at once, up by degrees."""
GROWTH_SHARE: Final = 0.5
"""Of the limit at which the copy pauses: from there on WAL that still grows slows it down."""
PAUSED_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A number of rows per second shared by all workers; `free_at` is when the next slice may begin.

    The monotonic clock is one for all processes of a machine.
    """

    rows_per_s: float | None
    free_at: Synchronized[float]

    def spend(self, rows: int) -> None:
        """Account for rows that were copied."""
        if self.rows_per_s is not None:
            with self.free_at.get_lock():
                self.free_at.value = max(self.free_at.value, time.monotonic()) + rows / self.rows_per_s

    def wait(self, stop: Event) -> None:
        """Wait until the rows spent are paid for, or until asked to stop."""
        while (left_s := self.free_at.value - time.monotonic()) > 0:
            if stop.wait(min(left_s, 1.0)):
                return


@dataclass(frozen=True, slots=True)
class Pace:
    """Which share of the time workers may copy, from 0 (paused) to 1; shared by all, set by the parent."""

    share: Synchronized[float]

    def rest(self, worked_s: float, stop: Event) -> None:
        """Rest after some work, in proportion, and for as long as the copy is paused; or until asked to stop."""
        rested_s = 0.0
        while (share := self.share.value) <= 0 or rested_s < worked_s * (1 / share - 1):
            nap_s = PAUSED_S if share <= 0 else min(PAUSED_S, worked_s * (1 / share - 1) - rested_s)
            if stop.wait(nap_s):
                return
            rested_s += nap_s


@dataclass(frozen=True, slots=True)
class Load:
    """What the source has to do besides this copy.

    Attributes:
        active: sessions of others at work.
        waiting: of these, sessions that wait for a lock or for I/O.
        retained: bytes of WAL that the slot keeps; None where there is no slot.
        budget: bytes that it may keep; None where that is unlimited.
    """

    active: int = 0
    waiting: int = 0
    retained: int | None = None
    budget: int | None = None


@dataclass(slots=True)
class Governor:
    """Decides the workers' share of the time, from look to look. Pure.

    Args:
        sessions: sessions of others at work from which the source is busy.
        waits: of these, sessions that wait.
        lag_bytes: WAL at which the copy pauses; None takes it from the slot's budget.
        on: whether it slows down before it pauses; the pause is always kept, for the slot would be lost.
    """

    sessions: int
    waits: int
    lag_bytes: int | None = None
    on: bool = True
    share: float = 1.0
    reason: str = ""
    _retained: int = 0

    def look(self, load: Load) -> None:
        """Take in what the source has to do now."""
        retained, limit = load.retained or 0, lag_limit(self.lag_bytes, load.budget)
        grows, self._retained = retained > self._retained, retained
        if retained > limit:
            self.share = 0.0
            self.reason = f"the slot retains {retained:,} bytes of WAL, over the limit of {limit:,}"
        elif self.on and (reason := self._busy(load, limit, grows=grows)):
            self.share = max(MIN_SHARE, self.share / 2)
            self.reason = reason
        elif self.share < 1:
            self.share = min(1.0, max(MIN_SHARE, self.share * FASTER)) if self.on else 1.0

    @property
    def text(self) -> str:
        """What a person who watches should know; empty at full speed."""
        if self.share >= 1:
            return ""
        speed = "paused" if self.share <= 0 else f"slowed to {self.share:.0%}"
        return f"{speed}: {self.reason}"

    def _busy(self, load: Load, limit: int, *, grows: bool) -> str:
        if load.waiting > self.waits:
            return f"{load.waiting:,} sessions wait at the source (limit {self.waits:,})"
        if load.active > self.sessions:
            return f"{load.active:,} sessions are at work at the source (limit {self.sessions:,})"
        if grows and (load.retained or 0) > limit * GROWTH_SHARE:
            return f"the slot retains {load.retained:,} bytes of WAL and more, the limit is {limit:,}"
        return ""


def lag_limit(setting_bytes: int | None, budget_bytes: int | None) -> int:
    """WAL bytes that the slot may retain before the copy pauses."""
    if setting_bytes is not None:
        return setting_bytes
    return DEFAULT_LAG_BYTES if budget_bytes is None else int(budget_bytes * BUDGET_SHARE)


@dataclass(slots=True)
class Glance:
    """Says when it is time to look at something again."""

    every_s: float = 5.0
    _next: float = field(default=0.0)

    def due(self) -> bool:
        """Whether the last look was long enough ago; if so, this is the next one."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self.every_s
        return True
