"""The worker processes of one run: started, listened to, restarted when they die, stopped.

Guarantees: a worker that dies is replaced, within reason; none outlives its parent; a reason why nobody can
go on stops them all.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from itertools import count
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Final, Self

from backfill.job import Fatal, Job, Note
from backfill.pace import Pace, RateLimit
from backfill.plans import Plan
from backfill.settings import Settings
from backfill.worker import run_worker
from widetable.errors import ExitCode

MAX_DEATHS: Final = 20
"""Workers that may die before the run is given up: slices bound their own failures, this bounds all else."""


class Crew:
    """The workers of a plan; leaving the context kills those that are left."""

    def __init__(self, settings: Settings, plan: Plan, rows_per_s: float | None) -> None:
        self.run = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}/"
        self.fatal: Fatal | None = None
        self._settings, self._plan = settings, plan
        self._context = get_context("spawn")
        self._stop = self._context.Event()
        self._rate = RateLimit(rows_per_s, self._context.Value("d", 0.0))
        self._pace = Pace(self._context.Value("d", 1.0))
        self._pipes: dict[SpawnProcess, Pipe] = {}
        self._numbers = count(1)
        self._deaths = 0

    def __enter__(self) -> Self:
        for _ in range(self._settings.backfill.workers):
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        list(self.listen(0))

    @property
    def pids(self) -> list[int]:
        """Processes at work."""
        return [process.pid for process in self._pipes if process.pid is not None]

    def listen(self, timeout_s: float) -> Iterator[Note]:
        """What workers have to say, waiting up to `timeout_s` for it; workers that ended are dealt with."""
        sentinels = [process.sentinel for process in self._pipes]
        connection.wait([*self._pipes.values(), *sentinels], timeout_s)
        for process, pipe in list(self._pipes.items()):
            ended = process.exitcode is not None  # asked before the pipe is emptied: nothing can follow
            yield from self._messages(pipe)
            if ended:
                del self._pipes[process]
                pipe.close()
                yield from self._replace(process)

    def slow_down(self, share: float) -> None:
        """Let the workers copy for this share of the time; 0 is a pause."""
        self._pace.share.value = share

    def stop(self) -> None:
        """Ask all to end after their slice."""
        self._stop.set()

    def kill(self) -> None:
        """End all at once; PostgreSQL rolls their transactions back."""
        self.stop()
        for process in self._pipes:
            process.kill()
        for process in self._pipes:
            process.join()

    def _start(self) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        name = f"{self.run}{next(self._numbers)}"
        job = Job(self._settings, self._plan, name, self._stop, self._rate, self._pace, theirs)
        process = self._context.Process(target=run_worker, args=(job,), name=name)
        process.start()
        theirs.close()
        self._pipes[process] = ours

    def _messages(self, pipe: Pipe) -> Iterator[Note]:
        try:
            while pipe.poll():
                match pipe.recv():
                    case Note() as note:
                        yield note
                    case Fatal() as fatal:
                        self._end_all(fatal)
        except (EOFError, ConnectionResetError):
            return

    def _replace(self, process: SpawnProcess) -> Iterator[Note]:
        """Start another worker for one that died rather than came to its end."""
        if process.exitcode == 0 or self._stop.is_set():
            return
        self._deaths += 1
        died = f"a worker died (exit code {process.exitcode})"
        if self._deaths >= MAX_DEATHS:
            self._end_all(Fatal(ExitCode.BUG, f"{died}, {self._deaths} workers so far: giving up"))
            return
        yield Note(f"{died}: another one takes its place")
        self._start()

    def _end_all(self, fatal: Fatal) -> None:
        self.fatal = self.fatal or fatal
        self.stop()
