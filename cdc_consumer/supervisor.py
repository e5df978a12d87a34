"""The parent process: keeps the consumer processes alive, does the chores, answers health checks.

In: a way to start a worker, and chores. Guarantee: the workers never outlive the parent's shutdown; a worker
that crashed or could not reach something is started again, one that needs a person stops the whole program.
A worker that met a new epoch or new partitions has done what it should: it is started again, and not counted.
One that hangs is not taken for one that is well: what it said last holds for a while only.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Lock
from typing import Final

import structlog

from cdc_consumer.metrics import Snapshot, combined
from widetable.command_line import named
from widetable.errors import ConfigurationError, ExitCode, StoppedError, UnreachableError, WideTableError

log = structlog.get_logger(__name__)

TICK_S: Final = 0.25
RESTART_S: Final = 1.0
RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 60.0
"""A worker that ends more often than that has a cause that starting again doesn't cure."""
SILENT_S: Final = 30.0
"""A worker not heard of for so long may hang. An idle one reports twice a second, a slow one after each round: a
round that meets one lock timeout, or a connection's, ends then and there. Kafka waits longer (45 s) before it
gives the partitions of a process that sleeps to another."""
OUTDATED: Final = 64
"""Exit code between worker and parent for `OutdatedError`; no program ends with it.

A new epoch or new partitions end every worker, one after the other: with many of them, more than `RESTARTS`."""


@dataclass(slots=True)
class Chore:
    """Something the parent does from time to time; an error is logged and counted, and the chore tried again.

    A `StoppedError` ends the program; a wrong setting does not, since the stream goes on without the chore: an
    alert looks at the count. A step that returns True has more to do and is due at once.
    """

    name: str
    every_s: float
    step: Callable[[], object]
    due: float = 0.0
    failures: int = 0


@dataclass(slots=True)
class Worker:
    """A consumer process as the parent sees it."""

    number: int
    process: BaseProcess
    pipe: Pipe
    snapshot: Snapshot = field(default_factory=Snapshot)
    reason: str = ""
    heard_s: float = field(default_factory=time.monotonic)  # of its last report, or of its start
    told: bool = False  # that it is silent

    def silent_s(self) -> float:
        """Seconds since its last report was read."""
        return time.monotonic() - self.heard_s

    def known(self) -> Snapshot:
        """Its counts, and what is true of it just now, unless that is too old to be believed."""
        return self.snapshot if self.silent_s() < SILENT_S else self.snapshot.outlived()


StartWorker = Callable[[int], tuple[BaseProcess, Pipe]]


class _StopNow(BaseException):
    """Raised by the signal's handler within a chore: it may wait for a database that does not answer.

    Not an `Exception`, so that no chore takes it for an error of its own; nor a `KeyboardInterrupt`, after which
    psycopg would wait for the server once more.
    """


class Supervisor:
    """Runs workers and chores until it is told to stop."""

    def __init__(
        self, start_worker: StartWorker, processes: int, chores: Sequence[Chore], shutdown_s: float
    ) -> None:
        self._start_worker = start_worker
        self._processes = processes
        self._chores = chores
        self._shutdown_s = shutdown_s
        self._workers: dict[int, Worker] = {}
        self._ended: list[Snapshot] = []  # counts of processes that are gone
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._stop_signal: int | None = None
        self._in_chore = False
        self._beat = time.monotonic()
        self._lock = Lock()

    # -- what others ask ---------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Counts of all processes, those that ended included."""
        with self._lock:
            return combined([*self._ended, *(worker.known() for worker in self._workers.values())])

    def alive_s(self) -> float:
        """Seconds since the loop last went round."""
        return time.monotonic() - self._beat

    def ready(self) -> bool:
        """Whether all processes run, are heard of, and have claimed what they were assigned."""
        with self._lock:
            workers = list(self._workers.values())
        return len(workers) == self._processes and all(worker.known().ready for worker in workers)

    def silent_s(self) -> float:
        """Seconds since the parent heard of the process that it has not heard of for longest.

        It grows for all of them while the parent itself waits in a chore: then, too, what it knows is old.
        """
        with self._lock:
            return max((worker.silent_s() for worker in self._workers.values()), default=0.0)

    def chore_failures(self) -> dict[str, float]:
        """How often each chore has failed."""
        return {chore.name: chore.failures for chore in self._chores}

    # -- the loop ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            WideTableError: a worker stopped for a person, or keeps failing.
        """
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, self._on_signal)
        try:
            for number in range(self._processes):
                self._start(number)
            while self._stop_signal is None:
                self._listen()
                self._replace_ended()
                self._do_chores()
                self._beat = time.monotonic()
        except _StopNow:
            log.info("chore_left")
        finally:
            self._shut_down()

    def _on_signal(self, received: int, _: object) -> None:
        self._stop_signal = received
        if self._in_chore:
            raise _StopNow

    def _start(self, number: int) -> None:
        process, pipe = self._start_worker(number)
        with self._lock:
            self._workers[number] = Worker(number, process, pipe)
        log.info("worker_started", worker=number, pid=process.pid)

    def _listen(self) -> None:
        """Take the workers' reports; waits up to a tick for one, or for a worker's end."""
        workers = list(self._workers.values())
        wait(
            [*(w.pipe for w in workers if not w.pipe.closed), *(w.process.sentinel for w in workers)], TICK_S
        )
        for worker in workers:
            _drain(worker)
            _tell_silence(worker)

    def _replace_ended(self) -> None:
        for worker in list(self._workers.values()):
            if worker.process.exitcode is None:
                continue
            self._forget(worker)
            self._judge(worker)
            if self._stop_signal is None:
                self._start(worker.number)

    def _forget(self, worker: Worker) -> None:
        worker.process.join()
        _drain(worker)
        worker.pipe.close()
        with self._lock:
            worker.snapshot.end()
            self._ended = [combined([*self._ended, worker.snapshot])]
            self._workers.pop(worker.number, None)

    def _judge(self, worker: Worker) -> None:
        """Let a worker be started again, unless that is no use."""
        code, reason = worker.process.exitcode, worker.reason or "ended without a word"
        log.warning("worker_ended", worker=worker.number, code=code, reason=reason)
        if code == ExitCode.CONFIGURATION:
            raise ConfigurationError(reason)
        if code == ExitCode.STOPPED:
            raise StoppedError(reason)
        if code == OUTDATED:
            return  # no pause either: of many, each would hold up the next, and a signal to end
        self._count(code, reason)
        time.sleep(RESTART_S)

    def _count(self, code: int | None, reason: str) -> None:
        """Give up when workers end again and again."""
        now = time.monotonic()
        self._restarts.append(now)
        if len(self._restarts) == RESTARTS and now - self._restarts[0] < RESTART_WINDOW_S:
            message = f"Consumer processes ended {RESTARTS} times within a minute; the last: {reason}"
            raise UnreachableError(message) if code == ExitCode.UNREACHABLE else WideTableError(message)

    def _do_chores(self) -> None:
        for chore in self._chores:
            now = time.monotonic()
            if now < chore.due or self._stop_signal is not None:
                continue
            again = False
            try:
                self._in_chore = True
                again = chore.step() is True
            except StoppedError:
                raise
            except Exception as error:
                known = named(error)
                if known is None:
                    raise
                chore.failures += 1
                say = log.error if isinstance(known, ConfigurationError) else log.warning
                say("chore_failed", chore=chore.name, error=str(known))
            finally:
                self._in_chore = False
            chore.due = time.monotonic() + (0 if again else chore.every_s)

    def _shut_down(self) -> None:
        """One deadline for all: ask, wait, and only then kill. The ledger makes a kill harmless, too."""
        deadline = time.monotonic() + self._shutdown_s
        workers = list(self._workers.values())
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            while worker.process.is_alive() and time.monotonic() < deadline:
                _drain(worker)
                worker.process.join(TICK_S)
            if worker.process.is_alive():
                log.warning("worker_killed", worker=worker.number, after_s=self._shutdown_s)
                worker.process.kill()
            self._forget(worker)


def _drain(worker: Worker) -> None:
    """Read what the worker sent: counts, or the reason why it ends."""
    try:
        while worker.pipe.poll():
            message = worker.pipe.recv()
            worker.heard_s = time.monotonic()
            if isinstance(message, Snapshot):
                worker.snapshot = message
            else:
                worker.reason = str(message)
    except (EOFError, OSError):  # it ends, or has ended: don't wait on this pipe any more
        worker.pipe.close()


def _tell_silence(worker: Worker) -> None:
    """Name the process that hangs, once: the metric says only that there is one."""
    silent = worker.silent_s() >= SILENT_S
    if silent and not worker.told:
        log.warning("worker_silent", worker=worker.number, pid=worker.process.pid, for_s=SILENT_S)
    worker.told = silent
