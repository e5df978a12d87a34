"""How a batch of history or corrections is written: in one transaction, under a layout that holds throughout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from typing import Final, TypeVar

import psycopg
import pyarrow as pa

from backfill.settings import Settings
from widetable.apply import Applied, Origin, Writer
from widetable.control import check_control
from widetable.errors import (
    ConfigurationError,
    LayoutChangedError,
    RetryableError,
    UnreachableError,
    WideTableError,
)
from widetable.hand_off import HandOff
from widetable.postgres import Connection, connect_target, retryable_errors
from widetable.statements import load_statements

T = TypeVar("T")

SQL: Final = load_statements(files("backfill") / "sql" / "writer_session.sql")

LAYOUT_TRIES: Final = 20
"""Layout changes in a row that are waited out before it counts as a failed attempt."""


def in_layout(conn: Connection, writer: Writer, work: Callable[[], T], what: str) -> T:
    """Run `work` in a transaction, and again when the layout changed meanwhile.

    Args:
        conn: the session of `writer`.
        writer: reads the layout again where it changed.
        work: what the transaction does.
        what: what is written, for the message.

    Raises:
        RetryableError: the layout does not come to rest.
    """
    for _ in range(LAYOUT_TRIES):
        try:
            with conn.transaction():
                return work()
        except LayoutChangedError:
            writer.load()
    raise RetryableError(f"the layout changed {LAYOUT_TRIES} times while {what} was written")


def require_same_epoch(read: HandOff | None, now: HandOff | None) -> None:
    """Refuse what was read behind the barrier of an epoch that has ended: a new one has another barrier.

    Args:
        read: the hand-off that the rows were read by.
        now: the hand-off within the transaction that writes them.

    Raises:
        RetryableError: the rows have to be read again.
    """
    if (read and read.epoch) != (now and now.epoch):
        raise RetryableError("a new epoch began between reading and writing: the rows are read again")


def apply_batch(writer: Writer, batch: pa.RecordBatch, origin: Origin) -> Applied:
    """Apply a `NarrowBatch` in the current transaction; one of no rows takes no lock."""
    if batch.num_rows == 0:
        return Applied()
    writer.begin()
    applied = writer.apply(batch, [], origin)
    if not applied.balanced:
        raise WideTableError(f"{applied} does not account for every row: a bug, nothing was written")
    return applied


@contextmanager
def target_errors(doing: str) -> Iterator[None]:
    """Sort what the target raises: a missing table or right stops all work, an outage delays it."""
    try:
        with retryable_errors(doing):
            yield
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith("42"):
            raise ConfigurationError(
                f"The target refuses to be written: {str(error).splitlines()[0]}."
                " Run `cdc-consumer schema apply`, or grant the role what it lacks."
            ) from error
        raise


class PatientWriter:
    """A session of the target for work outside of any slice; opened when it is needed, again after an outage.

    It is on record while it lasts, so that live data which waits for it too long may end it.

    Args:
        settings: where the target is, how often to try and how long to wait.
        command: what the session is for.
        nap: waits for some seconds between two attempts.

    Attributes:
        worked_s: seconds that the last work took, without the attempts that failed.
    """

    def __init__(self, settings: Settings, command: str, nap: Callable[[float], object] = time.sleep) -> None:
        self._settings, self._command, self._nap = settings, command, nap
        self._open: tuple[Connection, Writer] | None = None
        self.worked_s = 0.0

    def run(self, work: Callable[[Connection, Writer], T]) -> T:
        """Do some work with the session; it is tried again, on a new session, after what may pass.

        Raises:
            RetryableError, UnreachableError: an outage that outlasted all attempts.
            ConfigurationError: the target refuses the work.
        """
        section = self._settings.backfill
        for attempt in range(section.attempts):
            try:
                with target_errors(f"backfill {self._command}"):
                    session = self._session()
                    began_s = time.monotonic()
                    done = work(*session)
                    self.worked_s = time.monotonic() - began_s
                    return done
            except (RetryableError, UnreachableError):
                self.close()
                if attempt == section.attempts - 1:
                    raise
                self._nap(min(section.retry_wait_max_s, 2.0**attempt))
        raise AssertionError("unreachable")  # pragma: no cover

    def close(self) -> None:
        """End the session; harmless when it is gone."""
        if self._open is not None:
            conn, _ = self._open
            self._open = None
            with closing(conn), suppress(psycopg.Error):
                conn.execute(SQL["leave"])

    def _session(self) -> tuple[Connection, Writer]:
        if self._open is None:
            conn = connect_target(self._settings.target, f"backfill {self._command}")
            try:
                check_control(conn, self._settings.target.control_schema)
                conn.execute(SQL["enter"], [self._command])
                writer = Writer(conn)
                writer.load()
            except BaseException:
                conn.close()
                raise
            self._open = conn, writer
        return self._open
