"""What slows a copy down on purpose: the rate limit, and WAL that piles up behind the replication slot.

Guarantee: a worker waits here with no slice claimed and no transaction open.
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
LOOK_EVERY_S: Final = 5.0


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


def lag_limit(setting_bytes: int | None, budget_bytes: int | None) -> int:
    """WAL bytes that the slot may retain before the copy pauses."""
    if setting_bytes is not None:
        return setting_bytes
    return DEFAULT_LAG_BYTES if budget_bytes is None else int(budget_bytes * BUDGET_SHARE)


@dataclass(slots=True)
class Glance:
    """Says when it is time to look at something again."""

    every_s: float = LOOK_EVERY_S
    _next: float = field(default=0.0)

    def due(self) -> bool:
        """Whether the last look was long enough ago; if so, this is the next one."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self.every_s
        return True
