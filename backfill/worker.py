"""One worker process: connected to both databases, it copies slices of a plan until none is open.

In: a `Job`. Out: done slices, and messages to the parent. Guarantees: an outage is waited for; after a failure
the connections are new; the process ends with its parent.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing import parent_process
from typing import Final

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from backfill.job import Fatal, Job, Note
from backfill.plans import channel_count
from backfill.reader import Limits, Reader
from backfill.session import Session
from widetable import logs
from widetable.apply import Writer
from widetable.command_line import named
from widetable.control import check_control
from widetable.errors import ExitCode, RetryableError, UnreachableError
from widetable.postgres import connect_target, retryable_errors

FIRST_WAIT_S: Final = 0.5


def run_worker(job: Job) -> None:
    """The process's entry point: work until the plan is done, asked to stop, or nothing can go on."""
    # The parent hears of Ctrl+C and SIGTERM and asks us through `job.stop`: at the end of a slice.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logs.configure(job.settings.log)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        work(job)
    except Exception as error:
        if (known := named(error)) is None:
            raise
        job.messages.send(Fatal(known.exit_code, str(known)))


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(ExitCode.BUG)


def work(job: Job) -> None:
    """Copy slices until none is open; after a failure, connect anew.

    Raises:
        ConfigurationError: a setting, right or table is wrong: no slice can be copied.
        StoppedError: the source is not the hand-off's cluster.
    """
    finished, wait_s = False, FIRST_WAIT_S
    while not finished and not job.stop.is_set():
        copied = 0
        try:
            with open_session(job) as session:
                try:
                    finished = session.drain()
                finally:
                    copied = session.copied
        except RetryableError as error:
            job.messages.send(Note(str(error)))
            # One bad slice must not slow the others down; a full disk must not be hammered.
            wait_s = FIRST_WAIT_S if copied else min(2 * wait_s, job.settings.backfill.retry_wait_max_s)
            job.stop.wait(wait_s)
        except UnreachableError:
            break  # asked to stop while a database was away


@contextmanager
def open_session(job: Job) -> Iterator[Session]:
    """Connect to both databases, waiting while one is away.

    Raises:
        UnreachableError: asked to stop before they answered.
        RetryableError: they answered and broke off again.
    """
    retrying = _patience(job)
    with closing(retrying(connect_target, job.settings.target, "backfill writer")) as target:
        with retryable_errors("reading the layout"):
            check_control(target, job.settings.target.control_schema)
            section = job.settings.backfill
            limits = Limits(section.slice_rows, section.slice_cells, channel_count(target))
            writer = Writer(target)
            writer.load()
        with closing(retrying(Reader, job.settings.source, job.plan.scope.ships, limits)) as reader:
            yield Session(job, target, reader, writer)


def _patience(job: Job) -> Retrying:
    """Tries again while a database does not answer, until asked to stop."""

    def nap(wait_s: float) -> None:
        job.stop.wait(wait_s)

    def tell(state: RetryCallState) -> None:
        job.messages.send(Note(str(state.outcome.exception() if state.outcome else "")))

    return Retrying(
        retry=retry_if_exception_type(UnreachableError),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=job.settings.backfill.retry_wait_max_s),
        stop=lambda _: job.stop.is_set(),
        sleep=nap,
        before_sleep=tell,
        reraise=True,
    )
