"""One range of some ships from source to target, outside of any plan.

In: ships and bounds. Out: what was copied. Guarantees: as for slices, each snapshot lies behind the hand-off's
barrier and each write is one transaction; a range that proves too large is cut; copying again is harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from backfill.brake import LoneBrake
from backfill.ledger import Copied
from backfill.planner import Bounds, cut_evenly
from backfill.plans import channel_count
from backfill.reader import Limits, Reader, TooLargeError
from backfill.settings import Settings
from backfill.writing import PatientWriter, apply_batch, in_layout, require_same_epoch
from widetable.apply import Origin, Writer
from widetable.errors import PartialError, RetryableError, StoppedError
from widetable.hand_off import HandOff, streaming_hand_off
from widetable.postgres import Connection

T = TypeVar("T")


class Copier:
    """Copies ranges; opens its sessions when they are needed, and again after an outage.

    Args:
        settings: where both databases are, how often to try.
        streams: whether the pipeline has a hand-off; a copy goes on only while that stays so.
        brake: slows it down between two parts.
        nap: waits for some seconds.
        stopping: whether a signal was heard: a large range is left after the part in work.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        streams: bool,
        brake: LoneBrake,
        nap: Callable[[float], object],
        stopping: Callable[[], bool],
    ) -> None:
        self._settings, self._streams, self._brake, self._stopping = settings, streams, brake, stopping
        self.writer = PatientWriter(settings, "retry", nap)
        self._reader: Reader | None = None

    def copy(self, ships: tuple[str, ...], bounds: Bounds) -> Copied:
        """Copy what the source has in a range, part by part where it is large.

        Raises:
            RetryableError, UnreachableError: an outage that outlasted all attempts; parts before it are there.
            ConfigurationError, StoppedError: nothing can be copied.
            PartialError: a signal was heard; parts before it are there.
        """
        total, left = Copied(), [bounds]
        while left:
            if total.rows and self._stopping():
                raise PartialError(f"stopped after {total.rows:,} rows of this range")
            part = left.pop()
            self._brake.wait()
            try:
                copied = self.writer.run(partial(self._once, ships, part))
            except TooLargeError as size:
                left += reversed(cut_evenly(part, size.first_us, size.last_us, size.parts))
                continue
            self._brake.rest(copied.rows, self.writer.worked_s)
            total += copied
        return total

    def count(self, ships: tuple[str, ...], bounds: Bounds) -> int:
        """How many rows the source has in a range; writes nothing."""
        return self.writer.run(lambda conn, _writer: self._reading(conn, ships, lambda it: it.count(bounds)))

    def close(self) -> None:
        """End all sessions."""
        self._brake.close()
        self._close_reader()
        self.writer.close()

    def _once(self, ships: tuple[str, ...], part: Bounds, conn: Connection, writer: Writer) -> Copied:
        hand_off = self._hand_off(conn)
        reading = self._reading(conn, ships, lambda reader: reader.read(part, hand_off))

        def write() -> Copied:
            require_same_epoch(hand_off, self._hand_off(conn))
            applied = apply_batch(writer, reading.batch, Origin(self._settings.pipeline.name))
            cells = applied.applied + applied.overflow
            return Copied(reading.batch.num_rows, cells, reading.snapshot, reading.ship_rows)

        return in_layout(conn, writer, write, "a range")

    def _reading(self, conn: Connection, ships: tuple[str, ...], read: Callable[[Reader], T]) -> T:
        if self._reader is None:
            section = self._settings.backfill
            limits = Limits(section.slice_rows, section.slice_cells, channel_count(conn))
            self._reader = Reader(self._settings.source, ships, limits)
        self._reader.choose(ships)
        try:
            return read(self._reader)
        except RetryableError:
            self._close_reader()
            raise

    def _hand_off(self, conn: Connection) -> HandOff | None:
        hand_off = streaming_hand_off(conn, self._settings.pipeline.name)
        if (hand_off is not None) is not self._streams:
            raise StoppedError(
                "A hand-off was made or given up while `backfill retry` was at work: start it again."
            )
        return hand_off

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
