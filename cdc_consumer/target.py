"""The target as one process uses it: a session, its writer, its ledger; opened anew after every outage.

In: a partition's batch and the offset after it. Out: one transaction that holds the data, its overflow and
dead cells, and the ledger row, or nothing at all.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from cdc_consumer.meter import Meter
from widetable.apply import Applied, Origin, Writer
from widetable.control import check_control
from widetable.errors import LayoutChangedError
from widetable.freeing import LESSER_WRITER, freeing, patience_s
from widetable.hand_off import HandOff, require_current
from widetable.ledger import Claim, OffsetLedger
from widetable.narrow import DeadCell
from widetable.postgres import Connection, connect_target, retryable_errors
from widetable.settings import TargetSettings
from widetable.touched import note_touched

PATIENCE_S: Final = 10.0
"""How long a batch waits for a slice of history, or a resync, before it ends that session."""


@dataclass(frozen=True, slots=True)
class PartitionBatch:
    """What one transaction applies: samples and dead cells of one partition, and the offset to go on from."""

    samples: pa.RecordBatch
    dead: list[DeadCell]
    to: int


class Target:
    """Applies batches; every `RetryableError` means that the session is to be closed and opened again."""

    def __init__(self, settings: TargetSettings, hand_off: HandOff, owner: str, meter: Meter) -> None:
        """`hand_off` is what the process started with: its decoder knows no other epoch and partitions."""
        self._settings = settings
        self._lock_timeout_s = settings.lock_timeout_ms / 1000
        self._hand_off = hand_off
        self._origin = Origin(hand_off.pipeline, hand_off.topic, hand_off.topic_id)
        self._owner = owner
        self._meter = meter
        self._conn: Connection | None = None

    def open(self) -> None:
        """Connect, check the control schema, load the layout.

        Raises:
            RetryableError, UnreachableError: try again later.
            ConfigurationError: no use in trying again.
        """
        self.close()
        with retryable_errors("opening the target"):
            self._conn = conn = connect_target(self._settings, self._owner)
            check_control(conn, self._settings.control_schema)
            self._writer = Writer(conn)
            self._writer.load()
            self._ledger = OffsetLedger(
                conn,
                self._hand_off.pipeline,
                self._hand_off.topic_id,
                self._owner,
                self._second_session,
                self._lock_timeout_s,
            )

    def _second_session(self) -> Connection:
        conn = connect_target(self._settings, f"{self._owner} free")
        check_control(conn, self._settings.control_schema)
        return conn

    def close(self) -> None:
        """Drop the session; whatever was in flight rolls back, or turns out to be done at the next claim."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def claim(self, partition: int) -> Claim:
        """Become the owner of a partition.

        Raises:
            OutdatedError: another epoch has begun, or partitions were added, since this process started.
        """
        assert self._conn is not None  # noqa: S101 - `open` comes first, by construction
        with retryable_errors(f"claiming partition {partition}"), self._coming_first():
            claim = self._ledger.claim(partition)
            require_current(self._conn, self._hand_off)
        return claim

    def apply(self, claim: Claim, batch: PartitionBatch) -> tuple[Claim, Applied]:
        """Apply one batch in one transaction.

        Raises:
            FenceLostError: the partition has another owner; nothing was written.
            RetryableError: nothing was written, or everything: claim again to learn which.
        """
        while True:
            try:
                with retryable_errors("applying a batch"), self._coming_first():
                    return self._transaction(claim, batch)
            except LayoutChangedError:
                with retryable_errors("loading the layout"):
                    self._writer.load()

    def _coming_first(self) -> AbstractContextManager[None]:
        """Live data does not wait for history or repairs that are stuck."""
        assert self._conn is not None  # noqa: S101 - `open` comes first, by construction
        patience = patience_s(PATIENCE_S, self._lock_timeout_s)
        return freeing(self._conn, self._second_session, LESSER_WRITER, patience)

    def _transaction(self, claim: Claim, batch: PartitionBatch) -> tuple[Claim, Applied]:
        assert self._conn is not None  # noqa: S101 - `open` comes first, by construction
        with ExitStack() as stage, self._conn.transaction():
            with self._meter.stage("apply"):
                advanced = self._ledger.advance(claim, batch.to)
                self._writer.begin()
                applied = self._writer.apply(batch.samples, batch.dead, self._origin)
                note_touched(self._conn, self._hand_off.pipeline, batch.samples)
            if not applied.balanced:  # inside: what doesn't add up is not committed
                raise AssertionError(f"events don't add up: {applied}")
            stage.enter_context(self._meter.stage("commit"))
        return advanced, applied
