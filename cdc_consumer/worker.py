"""One consumer process: built, run until told to stop, reporting its counts to the parent."""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Final

import structlog
from confluent_kafka import KafkaException

from cdc_consumer.consumer import Consumer
from cdc_consumer.metrics import Snapshot
from cdc_consumer.supervisor import OUTDATED
from cdc_consumer.topic import kafka_error
from widetable.command_line import named
from widetable.errors import ExitCode, OutdatedError, WideTableError
from widetable.logs import LogSettings, configure

log = structlog.get_logger(__name__)

POLL_WAIT_S: Final = 0.2
REPORT_S: Final = 0.5
COLLECT_S: Final = 30.0
"""The garbage collector is off in the loop, where it would walk every message; it runs this often instead."""

Build = Callable[[str, Snapshot], Consumer]


def run_worker(build: Build, logs: LogSettings, number: int, pipe: Pipe) -> None:
    """Entry point of a consumer process; ends with one of the programs' exit codes, or `OUTDATED`."""
    configure(logs)
    structlog.contextvars.bind_contextvars(worker=number)
    stopping = _stop_on_signals()
    try:
        _run(build, f"cdc-consumer-{os.getpid()}-{number}", pipe, stopping)
    except Exception as error:  # the parent decides what follows; it needs the reason
        known = named(error, _surprise)
        if known is None:
            log.exception("bug")
        _tell(pipe, f"{known or repr(error)}")
        raise SystemExit(_exit_code(known)) from None


def _exit_code(known: WideTableError | None) -> int:
    if isinstance(known, OutdatedError):
        return OUTDATED
    return known.exit_code if known else ExitCode.BUG


def _surprise(error: Exception) -> WideTableError | None:
    return kafka_error(error) if isinstance(error, KafkaException) else None


def _run(build: Build, owner: str, pipe: Pipe, stopping: Callable[[], bool]) -> None:
    snapshot = Snapshot()
    consumer = build(owner, snapshot)
    gc.collect()
    gc.freeze()
    gc.disable()
    reported = collected = time.monotonic()
    try:
        while not stopping():
            consumer.step(POLL_WAIT_S)
            now = time.monotonic()
            if now - reported >= REPORT_S:
                reported = now
                if not _report(consumer, pipe):
                    log.warning("parent_is_gone")
                    break
            if now - collected >= COLLECT_S:
                collected = now
                gc.collect()
    finally:
        consumer.close()
        _tell(pipe, snapshot)


def _report(consumer: Consumer, pipe: Pipe) -> bool:
    """Send the counts, unless the parent is too busy to read: the loop waits for nobody; False if it is gone."""
    if not select.select([], [pipe], [], 0)[1]:
        return True
    return _tell(pipe, consumer.tell())


def _tell(pipe: Pipe, message: Snapshot | str) -> bool:
    """Send to the parent; False if it is gone."""
    try:
        pipe.send(message)
    except OSError:
        return False
    return True


def _stop_on_signals() -> Callable[[], bool]:
    """SIGTERM and SIGINT finish the round that is under way; the parent enforces the deadline."""
    seen: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: seen.append(received))
    return lambda: bool(seen)
