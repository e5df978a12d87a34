"""The parts of a deployment, each opened when first asked for, so that one that is away hides no other.

In: settings. Out: sessions and clients, or the error that opening them gave, the same each time.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from psycopg import sql

from cdc_consumer.connect import Connect
from cdc_consumer.settings import Settings
from cdc_consumer.topic import Topics
from widetable.control import check_control
from widetable.hand_off import HandOff, read_hand_off
from widetable.part import Part
from widetable.postgres import Connection, connect_source, connect_target, fetch_one

APPLICATION: Final = "cdc-consumer check"


class Parts:
    """All parts of one deployment; a context manager that closes what was opened."""

    def __init__(self, settings: Settings, patience_s: float | None = None) -> None:
        """`patience_s` is how long a statement at the source may take; None is as long as it likes."""
        self.settings = settings
        self._patience_s = patience_s
        self._stack = ExitStack()
        self.source = Part("the source database", self._open_source)
        self.target = Part("the target database", self._open_target)
        self.control = Part("the control schema", self._open_control)
        self.kafka = Part("Kafka", self._open_kafka)
        self.connect = Part("Kafka Connect", self._open_connect)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def hand_off(self) -> HandOff | None:
        """The epoch that streams; None before `init` and after `teardown`."""
        latest = self.latest_hand_off()
        return None if latest is None or latest.ended else latest

    def latest_hand_off(self) -> HandOff | None:
        """The last epoch, torn down or not; None before the first `init`, with a control schema or without."""
        row = fetch_one(self.target(), "SELECT to_regclass(%s)", self._hand_off_table())
        return None if row[0] is None else read_hand_off(self.control(), self.settings.pipeline.name)

    def _hand_off_table(self) -> str:
        return sql.Identifier(self.settings.target.control_schema, "hand_off").as_string()

    def _open_source(self) -> Connection:
        return self._stack.enter_context(
            connect_source(self.settings.source, APPLICATION, patience_s=self._patience_s)
        )

    def _open_target(self) -> Connection:
        return self._stack.enter_context(connect_target(self.settings.target, APPLICATION))

    def _open_control(self) -> Connection:
        target = self.target()
        check_control(target, self.settings.target.control_schema)
        return target

    def _open_kafka(self) -> Topics:
        topics = Topics(self.settings.kafka)
        topics.broker_count()
        return topics

    def _open_connect(self) -> Connect:
        connect = self._stack.enter_context(Connect(self.settings.connect))
        connect.version()
        return connect
