"""One consumer process: it ends as it is told, says why it ends by itself, and waits for nobody."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from typing import Any, cast

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException

from cdc_consumer import worker
from cdc_consumer.consumer import Consumer
from cdc_consumer.metrics import Snapshot
from cdc_consumer.supervisor import OUTDATED
from widetable.errors import ConfigurationError, ExitCode, OutdatedError, StoppedError, UnreachableError
from widetable.logs import LogSettings

Step = Callable[[int], None]


class FakeConsumer:
    """Runs a test's code in each round."""

    def __init__(self, step: Step, snapshot: Snapshot) -> None:
        self._step = step
        self._snapshot = snapshot
        self.rounds = 0
        self.closed = 0
        self.collector_was_on = False

    def step(self, wait_s: float) -> None:
        """One round."""
        assert 0 < wait_s < 1
        self.rounds += 1
        self.collector_was_on |= gc.isenabled()
        self._step(self.rounds)

    def tell(self) -> Snapshot:
        """Some lag."""
        self._snapshot.lag, self._snapshot.held_rows, self._snapshot.ready = {0: self.rounds}, 3, True
        return self._snapshot

    def close(self) -> None:
        """Count."""
        self.closed += 1


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a worker does to its process is undone: signal handlers, garbage collector, logging."""
    monkeypatch.setattr(worker, "configure", lambda _: None)
    monkeypatch.setattr(worker, "REPORT_S", 0.0)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    gc.unfreeze()
    gc.enable()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def pipes() -> Iterator[tuple[Pipe, Pipe]]:
    """The parent's end and the worker's."""
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        yield ours, theirs


def run(step: Step, pipe: Pipe) -> FakeConsumer:
    """Run a worker to its end in this process."""
    built = []

    def build(owner: str, snapshot: Snapshot) -> Consumer:
        assert str(os.getpid()) in owner
        snapshot.polled = 7
        built.append(FakeConsumer(step, snapshot))
        return cast("Consumer", built[0])

    worker.run_worker(build, LogSettings(), 0, pipe)
    return built[0]


def received(pipe: Pipe) -> list[Any]:
    """All that the worker has sent."""
    messages = []
    while pipe.poll():
        messages.append(pipe.recv())
    return messages


def signalled(at_round: int, number: int = signal.SIGTERM) -> Step:
    """A consumer whose process gets a signal within that round."""

    def step(rounds: int) -> None:
        if rounds == at_round:
            os.kill(os.getpid(), number)

    return step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_loop_after_the_round(pipes: tuple[Pipe, Pipe], number: int) -> None:
    """The round is finished, the consumer closed, and the last counts are sent."""
    consumer = run(signalled(3, number), pipes[1])
    assert (consumer.rounds, consumer.closed) == (3, 1)
    messages = received(pipes[0])
    assert all(isinstance(message, Snapshot) for message in messages)
    assert (messages[-1].polled, messages[-1].held_rows, messages[-1].ready) == (7, 3, True)
    assert messages[-1].lag.keys() == {0}


def test_the_garbage_collector_is_off_in_the_loop(pipes: tuple[Pipe, Pipe]) -> None:
    """It would walk every message."""
    assert not run(signalled(2), pipes[1]).collector_was_on


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        pytest.param(ConfigurationError("no grant"), ExitCode.CONFIGURATION, "no grant", id="configuration"),
        pytest.param(StoppedError("truncated"), ExitCode.STOPPED, "truncated", id="stopped"),
        pytest.param(UnreachableError("away"), ExitCode.UNREACHABLE, "away", id="unreachable"),
        pytest.param(OutdatedError("a new epoch"), OUTDATED, "a new epoch", id="outdated"),
        pytest.param(
            KafkaException(KafkaError(KafkaError._TRANSPORT)),
            ExitCode.UNREACHABLE,
            "Kafka does not answer",
            id="librdkafka's own",
        ),
        pytest.param(ZeroDivisionError("oops"), ExitCode.BUG, "ZeroDivisionError('oops')", id="bug"),
    ],
)
def test_an_error_is_told_to_the_parent_and_ends_the_process(
    pipes: tuple[Pipe, Pipe], error: Exception, code: int, reason: str
) -> None:
    """The parent needs the reason and the code to decide what follows."""

    def fail(_: int) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(fail, pipes[1])
    assert ended.value.code == code
    *_, counts, told = received(pipes[0])
    assert reason in told
    assert counts.polled == 7, "what was counted before the end is not lost"


def test_a_worker_whose_parent_is_gone_ends(pipes: tuple[Pipe, Pipe]) -> None:
    """A parent killed with -9 must not leave members of the group behind."""
    pipes[0].close()
    consumer = run(lambda _: None, pipes[1])
    assert consumer.closed == 1


def test_a_parent_that_does_not_read_does_not_stop_the_loop(pipes: tuple[Pipe, Pipe]) -> None:
    """It waits for a database, say; the pipe is full, and the consumer goes on all the same."""
    consumer = run(signalled(2_000), pipes[1])
    assert consumer.rounds == 2_000
    assert len(received(pipes[0])) < 2_000
