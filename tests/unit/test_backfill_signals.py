"""`backfill` and signals: a database that does not answer holds the end up no longer than a worker does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from backfill.brake import Brake
from backfill.grace import within_grace
from backfill.ledger import Totals
from backfill.runner import Watch, listening, look
from devstack.product import PROGRAMS
from tests.waiting import wait_until
from widetable.errors import ExitCode


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


@pytest.mark.parametrize(
    "command",
    [pytest.param(["verify", "--follow"], id="verify --follow"), pytest.param(["retry"], id="retry")],
)
def test_commands_of_one_process_end_within_the_grace_period(command: list[str]) -> None:
    """Both let what is under way finish; a server that never answers is left when the time is over."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        dsn = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=60"
        given = {"CDC_SOURCE__DSN": dsn, "CDC_TARGET__DSN": dsn, "CDC_BACKFILL__SHUTDOWN_S": "0.5"}
        child = subprocess.Popen(  # noqa: S603 - our own program
            [str(PROGRAMS / "backfill"), *command],
            env={**os.environ, **given},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with silent.accept()[0]:
                child.terminate()
                _, said = child.communicate(timeout=30)
        finally:
            child.kill()
    assert (child.returncode, said) == (
        ExitCode.UNREACHABLE,
        "error: not ended 0.5 s after the signal: what was under way took longer, or a database does not answer\n",
    )


HANGS = """
import signal, sys, threading
from pathlib import Path
from backfill.grace import within_grace
from backfill.retry_command import Leftover
from backfill.runner import listening

path = Path(sys.argv[1])
leftover = Leftover(path)
with within_grace(0.1, leftover.discard), listening():
    leftover.write(b"IMO1,,")
    print(*(file.name for file in path.parent.iterdir()), flush=True)
    signal.raise_signal(signal.SIGTERM)
    threading.Event().wait(60)
"""


def test_a_list_that_is_not_whole_is_no_litter(tmp_path: Path) -> None:
    """When the time is over the program ends as it stands, but what it had begun to write is removed first."""
    command = [sys.executable, "-c", HANGS, str(tmp_path / "left.csv")]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert (child.returncode, child.stdout.strip()[-5:]) == (ExitCode.UNREACHABLE, ".part")
    assert list(tmp_path.iterdir()) == []


def test_the_grace_period_ends_with_what_it_bounds() -> None:
    """A signal, then an end in time: nothing happens later."""
    with listening() as wish, within_grace(0.05):
        signal.raise_signal(signal.SIGTERM)
    assert wish.signals == 1
    assert signal.set_wakeup_fd(-1) == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "grace"]
