"""Everything a command talks to, opened together: source, target, Kafka, Connect.

In: settings. Out: open clients, closed at the end. Guarantee: what does not answer is found before anything
is changed, and one command at a time changes a pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import structlog

from cdc_consumer.connect import Connect
from cdc_consumer.registry import open_registry
from cdc_consumer.settings import Settings
from cdc_consumer.topic import Topics
from widetable.errors import PoisonError, UnreachableError
from widetable.postgres import Connection, connect_source, connect_target, fetch_one

log = structlog.get_logger(__name__)

POLL_S: Final = 0.2
LOCK_KEY: Final = "hashtextextended('narrow-to-wide pipeline ' || %s, 0)"


@dataclass(frozen=True, slots=True)
class Deployment:
    """Open clients of one pipeline; both database sessions are in autocommit and hold no transaction."""

    settings: Settings
    source: Connection
    target: Connection
    topics: Topics
    connect: Connect


@contextmanager
def open_deployment(settings: Settings, application: str) -> Iterator[Deployment]:
    """Open all clients, in the order of the data's way.

    Raises:
        ConfigurationError, UnreachableError: the first part that refuses or does not answer.
    """
    with (
        connect_source(settings.source, application) as source,
        Connect(settings.connect) as connect,
        connect_target(settings.target, application) as target,
    ):
        connect.version()
        probe_registry(settings)
        topics = Topics(settings.kafka)
        topics.broker_count()
        yield Deployment(settings, source, target, topics, connect)


def probe_registry(settings: Settings) -> bool:
    """See that the schema registry answers, whatever schemas it knows; False where none is needed, as for JSON."""
    if settings.topic.format == "json":
        return False
    with closing(open_registry(settings.registry)) as registry, suppress(PoisonError):
        registry.schema(1)
    return True


@contextmanager
def one_at_a_time(target: Connection, pipeline: str, wait_s: float) -> Iterator[None]:
    """Hold the pipeline's advisory lock for this session; waits for another command to finish.

    A session lock needs no transaction: one with a transaction id would block the creation of a slot in the
    same cluster, and a waiting one would hold the barrier up.

    Raises:
        UnreachableError: another command kept it for `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    told = False
    while not fetch_one(target, f"SELECT pg_try_advisory_lock({LOCK_KEY})", pipeline)[0]:
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"another command changes pipeline {pipeline} since more than {wait_s:.0f} s: let it finish"
            )
        if not told:
            log.info("waiting for another command on this pipeline", pipeline=pipeline)
            told = True
        time.sleep(POLL_S)
    try:
        yield
    finally:
        if not target.broken:
            target.execute(f"SELECT pg_advisory_unlock({LOCK_KEY})", [pipeline])
