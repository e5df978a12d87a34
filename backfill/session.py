"""From source to target, slice by slice: claim, read, write, record.

In: a `Job` and its two connections. Out: done slices. Guarantees: a slice's data and its ledger row are one
transaction; a slice that proves too large is cut; one that keeps failing is given up while the others go on.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

import psycopg

from backfill import ledger
from backfill.job import Job, Note
from backfill.ledger import Claim, Copied, SliceLostError
from backfill.pace import Glance
from backfill.planner import cut_evenly
from backfill.reader import Reader, Reading, TooLargeError
from backfill.writing import apply_batch, in_layout, require_same_epoch, target_errors
from widetable.apply import Origin, Writer
from widetable.errors import (
    ConfigurationError,
    RetryableError,
    StoppedError,
    WideTableError,
)
from widetable.hand_off import HandOff, read_hand_off
from widetable.postgres import Connection, retryable_errors

IDLE_S: Final = 0.5
"""Between two looks for a slice while others hold the last ones or a retry is due."""


class Session:
    """Both connections of a worker, and the slices that go from one to the other."""

    def __init__(self, job: Job, target: Connection, reader: Reader, writer: Writer) -> None:
        self._job = job
        self._section = job.settings.backfill
        self._target = target
        self._reader = reader
        self._writer = writer
        self._origin = Origin(job.settings.pipeline.name)
        self.copied = 0
        self._worked_s = 0.0  # since the last rest
        self._stuck_look = Glance()

    def drain(self) -> bool:
        """Copy slices until none is open (True) or asked to stop (False).

        Raises:
            RetryableError: an attempt failed and is recorded; the connections are in doubt.
        """
        while not self._job.stop.is_set():
            with retryable_errors("claiming a slice"):
                self._hold_back()
                if self._job.stop.is_set():
                    continue
                hand_off = self._hand_off()
                claim = ledger.claim_next(
                    self._target, self._job.plan.plan_id, self._job.name, self._section.lease_s
                )
                if claim is None and self._nothing_open():
                    return True
            if claim is None:
                self._job.stop.wait(IDLE_S)
            else:
                began_s = time.monotonic()
                self._attempt(claim, hand_off)
                self._worked_s += time.monotonic() - began_s
        return False

    # -- before a slice ----------------------------------------------------------------------------------

    def _hand_off(self) -> HandOff | None:
        """The hand-off as it is now: a new epoch has a new barrier.

        Raises:
            StoppedError: the plan was made for a copy without hand-off, and now there is one.
        """
        hand_off = read_hand_off(self._target, self._job.settings.pipeline.name)
        streams = hand_off is not None and not hand_off.ended
        if streams and self._job.plan.epoch is None:
            raise StoppedError(
                "A hand-off was made while this copy without one was running: start `backfill run` again,"
                " without --no-handoff. What was copied so far will be read again."
            )
        if not streams and self._job.plan.epoch is not None:
            raise StoppedError(
                "The pipeline was torn down: run `cdc-consumer init` first, then `backfill run`."
            )
        return hand_off

    def _hold_back(self) -> None:
        """Wait for what brakes the copy: the rate limit, and the governor of the run."""
        self._job.rate.wait(self._job.stop)
        self._job.pace.rest(self._worked_s, self._job.stop)
        self._worked_s = 0.0

    def _nothing_open(self) -> bool:
        """Whether all is done; frees slices whose workers are stuck, now and then."""
        if ledger.open_slices(self._target, self._job.plan.plan_id) == 0:
            return True
        if self._stuck_look.due():
            ledger.free_stuck(self._target, self._job.plan.plan_id, self._section.lease_s)
        return False

    # -- one slice ---------------------------------------------------------------------------------------

    def _attempt(self, claim: Claim, hand_off: HandOff | None) -> None:
        """Copy a claimed slice; whatever goes wrong is recorded with it."""
        try:
            if claim.failures >= self._section.attempts:
                self._give_up(claim)
                return
            self._copy(claim, hand_off)
        except SliceLostError:
            self._job.messages.send(Note(f"slice {claim.slice_no} is somebody else's by now: dropped"))
        except (ConfigurationError, StoppedError):
            with suppress(psycopg.Error):
                ledger.release(self._target, claim)
            raise
        except Exception as error:
            self._record_failure(claim, error)
            raise RetryableError(
                f"slice {claim.slice_no}, attempt {claim.attempt}: {_said(error)}"
            ) from error

    def _copy(self, claim: Claim, hand_off: HandOff | None) -> None:
        try:
            reading = self._reader.read(claim.bounds, hand_off)
        except TooLargeError as size:
            parts = cut_evenly(claim.bounds, size.first_us, size.last_us, size.parts)
            ledger.split(self._target, claim, parts)
            return
        with target_errors(f"writing slice {claim.slice_no}"):
            self._write(claim, reading, hand_off)
        self.copied += 1
        self._job.rate.spend(reading.batch.num_rows)

    def _write(self, claim: Claim, reading: Reading, read_by: HandOff | None) -> None:
        """Data and ledger row in one transaction."""

        def write() -> None:
            ledger.lock(self._target, claim)
            require_same_epoch(read_by, self._hand_off())
            applied = apply_batch(self._writer, reading.batch, self._origin)
            cells = applied.applied + applied.overflow
            copied = Copied(reading.batch.num_rows, cells, reading.snapshot, reading.ship_rows)
            ledger.mark_done(self._target, claim, copied)

        in_layout(self._target, self._writer, write, f"slice {claim.slice_no}")

    def _give_up(self, claim: Claim) -> None:
        """A slice that ends its workers time and again is not claimed for ever."""
        reason = f"its worker ended in mid-slice {claim.failures} times: out of memory?"
        ledger.fail(self._target, claim, reason, self._section.attempts, 0)

    def _record_failure(self, claim: Claim, error: Exception) -> None:
        wait_s = min(self._section.retry_wait_max_s, 2.0**claim.failures)
        with suppress(psycopg.Error):  # a lost connection: the next claim sees that the session is gone
            ledger.fail(self._target, claim, _said(error), self._section.attempts, wait_s)


def _said(error: Exception) -> str:
    """The message of an error of ours; others need their name to be understood."""
    return str(error) if isinstance(error, WideTableError) else f"{type(error).__name__}: {error}"
