"""The limit on dead records: a few are diverted, many mean that something is wrong with the stream itself."""

from __future__ import annotations

from collections import deque

import numpy as np

from widetable.errors import StoppedError
from widetable.narrow import DeadCell


class DeadLimit:
    """Counts dead records among all; raises before the batch that goes too far is written."""

    def __init__(self, in_a_row: int, share: float, window: int) -> None:
        self._in_a_row, self._share, self._window = in_a_row, share, window
        self._recent: deque[tuple[int, int]] = deque()  # (records, dead) of recent batches
        self._records = self._dead = 0
        self._run: dict[int, tuple[int, int]] = {}  # per partition: last dead offset, length of the run

    def count(self, records: int, dead: list[DeadCell]) -> None:
        """Take note of a decoded batch.

        Raises:
            StoppedError: too many; the message names the settings that let them pass.
        """
        self._recent.append((records, len(dead)))
        self._records += records
        self._dead += len(dead)
        while len(self._recent) > 1 and self._records - self._recent[0][0] >= self._window:
            old_records, old_dead = self._recent.popleft()
            self._records -= old_records
            self._dead -= old_dead
        longest = max((self._longest_run(dead)), default=0)
        if longest >= self._in_a_row:
            raise StoppedError(_message(f"{longest} records in a row are dead", "DEAD_IN_A_ROW", dead))
        if self._records >= self._window and self._dead > self._share * self._records:
            what = f"{self._dead} of the last {self._records} records are dead"
            raise StoppedError(_message(what, "DEAD_SHARE", dead))

    def _longest_run(self, dead: list[DeadCell]) -> list[int]:
        """The longest run of consecutive dead offsets that each partition's batch extends or starts."""
        runs = []
        for partition in sorted({cell.partition for cell in dead}):
            offsets = np.unique([cell.offset for cell in dead if cell.partition == partition])
            last, length = self._run.get(partition, (-2, 0))
            longest = 0
            for offset in offsets.tolist():
                length = length + 1 if offset == last + 1 else 1
                last, longest = offset, max(longest, length)
            self._run[partition] = (last, length)
            runs.append(longest)
        return runs


def _message(what: str, setting: str, dead: list[DeadCell]) -> str:
    last = dead[-1] if dead else None
    where = (
        f" The last: {last.reason} at partition {last.partition}, offset {last.offset}: {last.detail}."
        if last
        else ""
    )
    return (
        f"{what}: the stream itself looks wrong, so nothing more is diverted.{where} Mend the cause, or raise"
        f" CDC_CONSUMER__{setting} to let them pass as dead cells."
    )
