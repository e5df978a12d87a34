"""How late a partition is: how long its first record that is not applied has been in Kafka. Pure.

In: what was read, what was applied. Out: seconds, 0 while nothing waits: a ship that is silent is not late.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Lateness:
    """One partition. `reads` are the first offset of each read that is not applied whole, and its time in Kafka."""

    reads: deque[tuple[int, int]] = field(default_factory=deque)
    since_ms: int | None = None  # of the first record that waits, as far as is known

    def read(self, offset: int, record_ms: int) -> None:
        """Records from `offset` on were read; the first came to Kafka at `record_ms`."""
        self.reads.append((offset, record_ms))

    def applied(self, next_offset: int, position: int) -> None:
        """The ledger stands at `next_offset` now, and all before `position` has been read."""
        while len(self.reads) > 1 and self.reads[1][0] <= next_offset:
            self.reads.popleft()
        if next_offset >= position:  # nothing is held: what waits now has not been seen yet
            self.reads.clear()
            self.since_ms = None

    def given_up(self) -> Lateness:
        """The same, to be read again: what waited goes on waiting."""
        return Lateness(since_ms=self.reads[0][1] if self.reads else self.since_ms)

    def seconds(self, lag: int, now_ms: int) -> float:
        """How late the partition is, with so many records not applied.

        A record that was not read yet is as old as the first look that found it missing.
        """
        if not lag:
            self.since_ms = None
            return 0.0
        if self.reads:
            self.since_ms = self.reads[0][1]
        elif self.since_ms is None:
            self.since_ms = now_ms
        return max(0, now_ms - self.since_ms) / 1000
