"""The grace period of commands that work in one process: from the first signal on they have so many seconds to end.

In: seconds. Out: the process is gone by then, wherever it waits. A query to a server that has stopped answering may
sit in a C library, where Python's own handlers are not heard, or in a thread. Guarantee: nothing in the databases
is lost; what was not committed the server rolls back. A file that was begun is lost: `clear_up` removes it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

import click

from widetable.errors import ExitCode

ENDING: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def within_grace(seconds: float, clear_up: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Bound the time between a signal and the end of this block. For the main thread.

    Args:
        seconds: how long it may take.
        clear_up: removes what nothing else removes any more; called, by another thread, only when the time is over.
    """
    ended = Event()
    heard, signalled = os.pipe()
    os.set_blocking(signalled, False)
    former = signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    thread = Thread(target=_end_after, args=(heard, ended, seconds, clear_up), name="grace", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(former)
        os.close(signalled)
        thread.join()
        os.close(heard)


def _end_after(heard: int, ended: Event, seconds: float, clear_up: Callable[[], object]) -> None:
    while (number := os.read(heard, 1)) and number[0] not in ENDING:
        pass  # of another signal; nothing is read once the other end is closed
    if not ended.wait(seconds):
        click.echo(
            f"error: not ended {seconds:g} s after the signal: what was under way took longer, or a database"
            " does not answer",
            err=True,
        )
        try:
            clear_up()
        finally:
            os._exit(ExitCode.UNREACHABLE)
