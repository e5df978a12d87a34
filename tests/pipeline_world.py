"""A pipeline of its own on the real chain: fresh databases, and names that nobody else uses."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from confluent_kafka.admin import AdminClient

from cdc_consumer.connect import Connect
from cdc_consumer.init import init
from cdc_consumer.settings import Settings, load_settings
from cdc_consumer.slot import Slot, read_slot
from cdc_consumer.topic import Topics
from devstack.stack import Stack
from widetable.control import use_control
from widetable.errors import WideTableError
from widetable.hand_off import HandOff, read_hand_off
from widetable.postgres import Connection, connect_source, connect_target

DEADLINE_S = 60.0
WAIT_S = 30.0


@dataclass
class Pipeline:
    """A pipeline under test; both sessions are in autocommit."""

    settings: Settings
    source: Connection
    target: Connection
    changes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The pipeline's name; slot, publication and connector have it, too."""
        return self.settings.pipeline.name

    def init(self, wait_s: float = WAIT_S) -> HandOff:
        """Run `init`; what it changed is in `changes`."""
        self.changes.clear()
        return init(self.settings, wait_s=wait_s, report=self.changes.append)

    def hand_off(self) -> HandOff | None:
        """The hand-off in the target."""
        use_control(self.target, self.settings.target.control_schema)
        return read_hand_off(self.target, self.name)

    def slot(self) -> Slot | None:
        """The slot at the source."""
        return read_slot(self.source, self.name)

    def reader_pid(self) -> int | None:
        """The server process that reads the slot."""
        slot = self.slot()
        return slot.active_pid if slot else None

    def insert(self, first: int, count: int) -> None:
        """Insert samples, numbered by their second."""
        self.source.execute(
            "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, long_v, value_format)"
            " SELECT 'SHIP' || n %% 8, 'a/b', timestamp '2026-01-01' + n * interval '1 s', n, 'Integer'"
            " FROM generate_series(%s::int, %s::int) n",
            [first, first + count - 1],
        )

    def events(self) -> int:
        """How many records the change topic holds."""
        ends = Topics(self.settings.kafka).end_offsets(self.settings.topic_name, range(12))
        return sum(ends.values())

    @contextmanager
    def connect(self) -> Iterator[Connect]:
        """A client for Kafka Connect."""
        with Connect(self.settings.connect) as connect:
            yield connect

    @contextmanager
    def open_transaction(self) -> Iterator[int]:
        """A session of somebody else with a transaction id; gives its pid."""
        dsn = self.settings.source.dsn.get_secret_value()
        with psycopg.connect(dsn, application_name="report tool") as other:
            other.execute("SELECT pg_current_xact_id()")
            yield other.info.backend_pid


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds; fails with `what` after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@contextmanager
def opened(settings: Settings) -> Iterator[Pipeline]:
    """A pipeline before `init`; its connector and topics are removed at the end."""
    try:
        with (
            connect_source(settings.source, "test") as source,
            connect_target(settings.target, "test") as target,
        ):
            yield Pipeline(settings, source, target)
    finally:
        _remove(settings)


def pipeline_settings(stack: Stack, source_dsn: str, target_dsn: str, **more: str) -> Settings:
    """Settings for these databases on this chain, under a name of their own."""
    own = {
        "CDC_PIPELINE__NAME": f"t_{secrets.token_hex(5)}",
        "CDC_SOURCE__DSN": source_dsn,
        "CDC_TARGET__DSN": target_dsn,
        "CDC_CONNECT__HEARTBEAT_MS": "500",
    }
    return load_settings({**stack.environment(), **own, **more})


def _remove(settings: Settings) -> None:
    """The connector before its database, for it would hold its slot."""
    with suppress(WideTableError), Connect(settings.connect) as connect:
        if connect.config(settings.connector) is not None:
            connect.stop(settings.connector)
            connect.reset_offsets(settings.connector)
            connect.delete(settings.connector)
    admin = AdminClient(settings.kafka.client(log_level=0))
    topics = [topic for topic in admin.list_topics(timeout=10).topics if settings.topic_prefix in topic]
    for future in admin.delete_topics(topics).values() if topics else ():
        future.result()
