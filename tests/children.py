"""What the child processes of supervisor tests do.

A module of its own that imports little: each child is a fresh interpreter, and imports it first.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any

Body = Callable[[Pipe], None]


def counts(**fields: Any) -> Any:
    """A snapshot; its module brings numpy along, so it is imported only by those who count."""
    from cdc_consumer.metrics import Snapshot  # noqa: PLC0415 - as said

    return Snapshot(**fields)


def works(pipe: Pipe) -> None:
    """Report once, then work until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    pipe.send(counts(polled=10, lag={0: 1}, held_rows=5, ready=True))
    stop.wait()
    pipe.send(counts(polled=11, lag={0: 0}, held_rows=5, ready=True))


def keeps_reporting(pipe: Pipe) -> None:
    """Say the same many times a second until SIGTERM, as an idle consumer does twice a second."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while not stop.wait(0.02):
        pipe.send(counts(polled=10, lag={0: 1}, late_s={0: 0.0}, positions={0: 7}, ready=True))


def ignores_sigterm(pipe: Pipe) -> None:
    """Hang as a process does in a system call that never returns."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send(counts(polled=10, ready=True))
    while True:
        time.sleep(60)


def crashes(pipe: Pipe) -> None:
    """Report, then die as from a kill -9."""
    pipe.send(counts(polled=10, ready=True))
    os.kill(os.getpid(), signal.SIGKILL)


def lingers_without_a_pipe(pipe: Pipe) -> None:
    """Close the pipe long before the end, as a stuck interpreter shutdown does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pipe.close()
    time.sleep(60)


def needs_configuration(pipe: Pipe) -> None:
    """End as on a wrong setting."""
    pipe.send("CDC_X is wrong")
    raise SystemExit(3)


def needs_a_person(pipe: Pipe) -> None:
    """End as on a truncate."""
    pipe.send("the source was truncated")
    raise SystemExit(6)


def is_unreachable(pipe: Pipe) -> None:
    """End as when the database is away at the start."""
    pipe.send("the target database does not answer")
    raise SystemExit(4)


def is_outdated(pipe: Pipe) -> None:
    """End as when a new epoch began."""
    pipe.send("another epoch began")
    raise SystemExit(64)


def has_a_bug(_: Pipe) -> None:
    """End without a word."""
    raise SystemExit(1)
