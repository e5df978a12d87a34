"""The parent process, with real child processes: none is lost, none outlives it, and it knows when to give up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from cdc_consumer import supervisor as supervisor_module
from cdc_consumer.metrics import Snapshot
from cdc_consumer.supervisor import SILENT_S, Chore, Supervisor, Worker
from cdc_consumer.worker import POLL_WAIT_S, REPORT_S
from tests.children import (
    Body,
    crashes,
    has_a_bug,
    ignores_sigterm,
    is_outdated,
    is_unreachable,
    keeps_reporting,
    lingers_without_a_pipe,
    needs_a_person,
    needs_configuration,
    works,
)
from tests.waiting import wait_until
from widetable.errors import (
    ConfigurationError,
    ExitCode,
    StoppedError,
    UnreachableError,
    WideTableError,
)
from widetable.settings import TargetSettings

KAFKA_SESSION_S = 45.0
"""After so long without a heartbeat, by default, Kafka gives a process's partitions to others."""
SPAWN = multiprocessing.get_context("spawn")

# -- the supervisor in the test's main thread, where signals arrive --------------------------------------------


class Children:
    """Starts the children that a test asks for, in their order; the last kind is repeated."""

    def __init__(self, *bodies: Body) -> None:
        self._bodies = list(bodies)
        self.started: list[BaseProcess] = []

    def start(self, number: int) -> tuple[BaseProcess, Pipe]:
        """What `app` does: a fresh interpreter and a pipe to it."""
        body = self._bodies.pop(0) if len(self._bodies) > 1 else self._bodies[0]
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=body, args=(theirs,), name=f"worker-{number}", daemon=True)
        process.start()
        theirs.close()
        self.started.append(process)
        return process, ours

    @property
    def alive(self) -> list[int | None]:
        """Process ids of children that run."""
        return [process.pid for process in self.started if process.is_alive()]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses, and the test runner's own signal handlers back afterwards."""
    monkeypatch.setattr(supervisor_module, "RESTART_S", 0.01)
    monkeypatch.setattr(supervisor_module, "TICK_S", 0.02)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def stopped_when(
    condition: Callable[[], object], what: str, number: int = signal.SIGTERM
) -> Iterator[list[float]]:
    """Send this process a signal as soon as the condition holds, or when it does not in time.

    The list that it yields gets the time of the signal.
    """
    failures: list[str] = []
    sent_s: list[float] = []

    def watch() -> None:
        try:
            wait_until(condition, what)
        except AssertionError as error:
            failures.append(str(error))
        sent_s.append(time.monotonic())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    yield sent_s
    thread.join()
    assert not failures, failures


def supervise(
    children: Children, processes: int = 1, chores: list[Chore] | None = None, shutdown_s: float = 20.0
) -> Supervisor:
    """A supervisor of these children."""
    return Supervisor(children.start, processes, chores or [], shutdown_s)


# -- guarantees ----------------------------------------------------------------------------------------------


def test_sigterm_ends_all_workers_and_returns() -> None:
    """Every worker finishes its round; their last counts arrive, and none is left."""
    children = Children(works)
    supervisor = supervise(children, processes=2)
    with stopped_when(supervisor.ready, "both workers report ready"):
        supervisor.run()
    assert children.alive == []
    assert [process.exitcode for process in children.started] == [0, 0]
    assert supervisor.snapshot().polled == 22


def test_sigint_ends_all_workers_too() -> None:
    """Ctrl+C."""
    children = Children(works)
    supervisor = supervise(children)
    with stopped_when(supervisor.ready, "the worker reports ready", signal.SIGINT):
        supervisor.run()
    assert children.alive == []


def test_a_crashed_worker_is_started_again_and_its_counts_are_kept() -> None:
    """What it applied it applied; its lag and its held rows are another's now."""
    children = Children(crashes, works)
    supervisor = supervise(children)
    with stopped_when(lambda: supervisor.snapshot().polled == 20, "the second worker reports"):
        supervisor.run()
    assert [process.exitcode for process in children.started] == [-signal.SIGKILL, 0]
    counts = supervisor.snapshot()
    assert (counts.polled, counts.held_rows, counts.lag) == (21, 0, {})


def test_a_worker_that_ends_by_itself_is_started_again() -> None:
    """Somebody sent SIGTERM to the worker alone: the program keeps its number of processes."""
    children = Children(works)
    supervisor = supervise(children)

    def replaced() -> bool:
        if len(children.started) == 1 and supervisor.ready():
            children.started[0].terminate()
        return len(children.started) == 2 and supervisor.ready()

    with stopped_when(replaced, "a second worker reports ready"):
        supervisor.run()
    assert children.alive == []


def test_not_ready_while_a_worker_is_missing() -> None:
    """A crashed worker's partitions are nobody's for a moment."""
    children = Children(works)
    supervisor = supervise(children, processes=2)
    assert not supervisor.ready()
    with stopped_when(supervisor.ready, "both workers report ready"):
        supervisor.run()
    assert not supervisor.ready()


def signal_to(child: BaseProcess, number: int) -> None:
    """Send a child a signal."""
    assert child.pid
    os.kill(child.pid, number)


def test_a_worker_that_hangs_is_not_ready_and_its_lag_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It can't say so itself: SIGSTOP, or a COMMIT that never returns. Once it goes on, all is as before."""
    monkeypatch.setattr(supervisor_module, "SILENT_S", 1.0)
    children = Children(keeps_reporting)
    supervisor = supervise(children)
    seen: list[Snapshot] = []
    events: list[MutableMapping[str, Any]] = []

    def told() -> list[tuple[int, int]]:
        return [(event["worker"], event["pid"]) for event in events if event["event"] == "worker_silent"]

    def hung_and_went_on() -> bool:
        wait_until(lambda: supervisor.snapshot().lag == {0: 1} and supervisor.ready(), "the worker reports")
        signal_to(children.started[0], signal.SIGSTOP)
        try:
            wait_until(lambda: not supervisor.ready(), "the worker is not ready")
            seen.append(supervisor.snapshot())
            assert supervisor.silent_s() >= 1.0
            wait_until(told, "the log names it")
        finally:
            signal_to(children.started[0], signal.SIGCONT)
        wait_until(lambda: supervisor.ready() and supervisor.snapshot().lag == {0: 1}, "it goes on")
        return True

    with capture_logs() as captured, stopped_when(hung_and_went_on, "the worker hangs and goes on"):
        events = captured
        supervisor.run()
    (hung,) = seen
    assert (hung.polled, hung.lag, hung.late_s, hung.positions, hung.ready) == (10, {}, {}, {}, False)
    assert told() == [(0, children.started[0].pid)]


def test_a_sleeper_says_nothing_of_a_partition_that_another_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two reports of one partition only the one that is fresh counts, whatever their order."""
    monkeypatch.setattr(supervisor_module, "SILENT_S", 30.0)
    supervisor = supervise(Children(works))
    for number, (lag, age_s) in enumerate([(5, 0.0), (1, 31.0)]):
        worker = Worker(number, BaseProcess(), SPAWN.Pipe()[0], Snapshot(lag={0: lag}, ready=True))
        worker.heard_s -= age_s
        supervisor._workers[number] = worker
    assert supervisor.snapshot().lag == {0: 5}
    assert supervisor.silent_s() >= 31


def test_an_idle_or_slow_worker_is_not_called_silent() -> None:
    """Idle, it reports twice a second. Slow, it meets a timeout, which ends the round; all come well before."""
    target = TargetSettings(dsn=SecretStr("postgresql://t"))
    slow_s = target.connect_timeout_s + target.lock_timeout_ms / 1000
    assert 2 * (POLL_WAIT_S + REPORT_S) < slow_s < SILENT_S < KAFKA_SESSION_S
    supervisor = supervise(Children(keeps_reporting))
    ages: list[float] = []

    def reported_again_and_again() -> bool:
        if supervisor.ready():
            ages.append(supervisor.silent_s())
        return sum(later < earlier for earlier, later in pairwise(ages)) > 3

    with stopped_when(reported_again_and_again, "each report makes it heard of again"):
        supervisor.run()


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        pytest.param(needs_configuration, ConfigurationError, "CDC_X is wrong", id="configuration"),
        pytest.param(needs_a_person, StoppedError, "the source was truncated", id="stopped"),
    ],
)
def test_what_starting_again_cannot_cure_stops_all(
    body: Body, error: type[WideTableError], message: str
) -> None:
    """One worker's reason ends the whole program, with that reason, and leaves no process behind."""
    children = Children(works, body)
    with pytest.raises(error, match=message):
        supervise(children, processes=2).run()
    assert len(children.started) == 2
    assert children.alive == []


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        pytest.param(is_unreachable, ExitCode.UNREACHABLE, "does not answer", id="unreachable"),
        pytest.param(has_a_bug, ExitCode.BUG, "without a word", id="bug"),
        pytest.param(crashes, ExitCode.BUG, "without a word", id="crash"),
    ],
)
def test_a_worker_that_keeps_ending_ends_the_program(body: Body, code: ExitCode, reason: str) -> None:
    """Five times within a minute; the exit code tells an outage from a bug."""
    children = Children(body)
    with pytest.raises(WideTableError, match=rf"5 times within a minute.*{reason}") as ended:
        supervise(children).run()
    assert ended.value.exit_code is code
    assert len(children.started) == supervisor_module.RESTARTS


def test_more_processes_than_crashes_are_allowed_may_meet_a_new_epoch() -> None:
    """A `repartition` or `reinit` ends each of them once: the program goes on with as many."""
    processes = supervisor_module.RESTARTS + 1
    children = Children(*[is_outdated] * processes, works)
    supervisor = supervise(children, processes=processes)
    with stopped_when(supervisor.ready, "all are started again"):
        supervisor.run()
    codes = [child.exitcode for child in children.started]
    assert codes == [supervisor_module.OUTDATED] * processes + [0] * processes


def test_a_new_epoch_between_crashes_does_not_hide_them() -> None:
    """Only what was asked for is not counted."""
    children = Children(*[crashes, is_outdated] * 4, crashes)
    with pytest.raises(WideTableError, match="5 times within a minute"):
        supervise(children).run()
    assert len(children.started) == 9


def test_few_endings_long_apart_are_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash a day for a week is not five crashes within a minute."""
    monkeypatch.setattr(supervisor_module, "RESTART_WINDOW_S", 0.0)
    children = Children(*[crashes] * 6, works)
    supervisor = supervise(children)
    with stopped_when(lambda: supervisor.snapshot().polled == 70, "the seventh worker reports"):
        supervisor.run()
    assert len(children.started) == 7


def test_a_worker_that_ignores_sigterm_is_killed_at_the_deadline() -> None:
    """One deadline for all, however many hang; what they counted is not lost."""
    children = Children(ignores_sigterm)
    supervisor = supervise(children, processes=3, shutdown_s=2.0)
    with stopped_when(supervisor.ready, "the workers report ready") as sent_s:
        supervisor.run()
        assert 2 <= time.monotonic() - sent_s[0] < 5
    assert [process.exitcode for process in children.started] == [-signal.SIGKILL] * 3
    assert supervisor.snapshot().polled == 30


def test_a_stopped_worker_is_killed_at_the_deadline() -> None:
    """SIGSTOP: it can't even take SIGTERM."""
    children = Children(works)
    supervisor = supervise(children, shutdown_s=0.2)

    def ready_and_stopped() -> bool:
        if supervisor.ready() and (pid := children.started[0].pid):
            os.kill(pid, signal.SIGSTOP)
            return True
        return False

    with stopped_when(ready_and_stopped, "the worker is stopped"):
        supervisor.run()
    assert children.started[0].exitcode == -signal.SIGKILL


def test_a_closed_pipe_does_not_make_the_loop_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that closed its pipe and lingers must not cost the parent a whole core."""
    monkeypatch.setattr(supervisor_module, "TICK_S", 0.05)
    children, rounds = Children(lingers_without_a_pipe), 0

    def count() -> None:
        nonlocal rounds
        rounds += 1

    supervisor = supervise(children, chores=[Chore("count", 0.0, count)])
    began = time.monotonic()

    def lingered() -> bool:
        workers = list(supervisor._workers.values())
        if not workers or not workers[0].pipe.closed:
            nonlocal began, rounds
            began, rounds = time.monotonic(), 0
            return False
        return time.monotonic() - began > 0.5

    with stopped_when(lingered, "the pipe is closed for half a second"):
        supervisor.run()
    assert 1 <= rounds <= 20


# -- chores --------------------------------------------------------------------------------------------------


def test_a_chore_that_fails_is_tried_again() -> None:
    """An outage of the target must not end the program."""
    attempts: list[float] = []

    def fails_twice() -> None:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise UnreachableError("the target database does not answer")

    children = Children(works)
    supervisor = supervise(
        children, chores=[Chore("settle", 0.01, fails_twice), Chore("idle", 3_600.0, bool)]
    )
    with stopped_when(lambda: len(attempts) > 3, "the chore runs again"):
        supervisor.run()
    assert children.alive == []
    assert supervisor.chore_failures() == {"settle": 2, "idle": 0}


@pytest.mark.parametrize(
    ("error", "level"),
    [
        pytest.param(ConfigurationError("password authentication failed"), "error", id="a wrong setting"),
        pytest.param(UnreachableError("the target does not answer"), "warning", id="an outage"),
    ],
)
def test_a_chore_that_can_not_work_is_told_and_the_stream_goes_on(error: WideTableError, level: str) -> None:
    """By an event of the log for each time, as an error where waiting mends nothing, and by a count for alerts."""

    def fails() -> None:
        raise error

    children = Children(works)
    supervisor = supervise(children, chores=[Chore("govern", 0.0, fails)])
    with (
        capture_logs() as events,
        stopped_when(lambda: supervisor.chore_failures()["govern"] > 2 and supervisor.ready(), "some tries"),
    ):
        supervisor.run()
    told = [event for event in events if event["event"] == "chore_failed"]
    assert {(event["chore"], event["log_level"], event["error"]) for event in told} == {
        ("govern", level, str(error))
    }
    assert len(told) == supervisor.chore_failures()["govern"]
    assert [process.exitcode for process in children.started] == [0]


def test_a_bug_in_a_chore_is_not_hidden() -> None:
    """It ends the program, and still no worker outlives it."""

    def has_a_bug_too() -> None:
        raise ZeroDivisionError

    children = Children(works)
    with pytest.raises(ZeroDivisionError):
        supervise(children, chores=[Chore("broken", 0.0, has_a_bug_too)]).run()
    assert children.alive == []


def test_a_chore_waits_for_its_turn() -> None:
    """`every_s` is the pause between two runs, however fast the loop goes round."""
    often: list[int] = []
    rarely: list[int] = []
    chores = [
        Chore("often", 0.0, lambda: often.append(1)),
        Chore("rarely", 3_600.0, lambda: rarely.append(1)),
    ]
    children = Children(works)
    with stopped_when(lambda: len(often) > 5, "the frequent chore runs"):
        supervise(children, chores=chores).run()
    assert len(rarely) == 1


def test_a_chore_that_has_more_to_do_runs_again_at_once() -> None:
    """Draining a backlog does not wait for the next turn; once it is done, it does."""
    left, runs = [True, True, True], []

    def drain() -> bool:
        runs.append(left.pop() if left else False)
        return runs[-1]

    children = Children(works)
    supervisor = supervise(children, chores=[Chore("drain", 3_600.0, drain)])
    with stopped_when(lambda: len(runs) == 4 and supervisor.ready(), "the backlog is done"):
        supervisor.run()
    assert runs == [True, True, True, False]


def test_alive_tells_the_age_of_the_last_round() -> None:
    """Health looks at it: a chore that hangs shows there."""
    ages: list[float] = []
    children = Children(works)
    supervisor = supervise(children, chores=[Chore("look", 0.0, lambda: ages.append(supervisor.alive_s()))])
    with stopped_when(lambda: len(ages) > 5, "some rounds went by"):
        supervisor.run()
    assert all(0 <= age < 10 for age in ages)


def test_a_chore_that_waits_for_a_database_does_not_hold_the_end_up() -> None:
    """A server that takes the connection and never answers: SIGTERM ends the wait, and the workers as ever."""
    children = Children(works)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=60"
        waiting = threading.Event()

        def connect() -> None:
            waiting.set()
            psycopg.connect(dsn)

        supervisor = supervise(children, chores=[Chore("govern", 0.0, connect)], shutdown_s=10.0)
        with stopped_when(lambda: waiting.is_set() and children.alive, "the chore waits") as sent_s:
            supervisor.run()
            assert time.monotonic() - sent_s[0] < 15
    assert children.alive == []
