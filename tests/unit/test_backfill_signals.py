"""`backfill run` and signals: a database that does not answer holds the end up no longer than a worker does."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import Any, cast

import psycopg

from backfill.ledger import Totals
from backfill.runner import Brake, Watch, listening, look
from tests.waiting import wait_until


class Looks:
    """A watch and a brake in one, which do what a test says."""

    def __init__(self, act: Any) -> None:
        self._act = act
        self.began = threading.Event()

    def look(self, _slot: str | None = None) -> Any:
        """As a watch."""
        self.began.set()
        return self._act()

    def slot(self) -> None:
        """No slot."""


def signalled(looks: Looks) -> threading.Thread:
    """SIGTERM to this process, once the look has begun."""

    def send() -> None:
        wait_until(looks.began.is_set, "the look begins")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_signal_leaves_a_look_that_waits_for_a_database() -> None:
    """A server that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent, listening() as wish:
        dsn = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=60"
        looks = Looks(lambda: psycopg.connect(dsn))
        sender, started = signalled(looks), time.monotonic()
        assert look(cast("Watch", looks), cast("Brake", looks), wish) is None
        sender.join()
    assert time.monotonic() - started < 30
    assert (wish.signals, wish.looking) == (1, False)


def test_a_look_that_is_answered_is_shown() -> None:
    """Without a signal nothing is different, and a signal between two looks only counts."""
    totals = Totals(1, 2, 3, 4, 5, 6, 7)
    looks = Looks(lambda: totals)
    with listening() as wish:
        seen: Any = look(cast("Watch", looks), cast("Brake", looks), wish)
        signal.raise_signal(signal.SIGTERM)
    assert seen == (totals, totals)
    assert (wish.signals, wish.looking) == (1, False)


def test_signals_are_what_they_were_afterwards() -> None:
    """The handlers are those of a run only."""
    before = signal.getsignal(signal.SIGTERM)
    with listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
