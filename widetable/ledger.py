"""The offset ledger: how far each Kafka partition has been applied, kept with the data it speaks of.

A partition's batches form one chain: each batch's first statement moves the ledger row on, and only if the
row still carries the owner's fence and the number of the batch before. A batch that did commit, although the
connection broke meanwhile, is thereby seen as done when its owner claims the row again; a zombie's is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Final

from widetable.errors import ConfigurationError, FenceLostError
from widetable.freeing import PREVIOUS_OWNER, freeing, patience_s
from widetable.postgres import Connection
from widetable.statements import load_statements

SQL: Final = load_statements(files("widetable") / "sql" / "ledger.sql")
PATIENCE_S: Final = 5.0
"""How long a new owner waits for the ledger row, at most, before it ends the session that blocks it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Ownership of one partition: where its chain stands. `next_offset` is the first offset not applied."""

    partition: int
    fence: int
    batch_no: int
    next_offset: int


class OffsetLedger:
    """The ledger rows of one pipeline and topic, as one owner works with them on one session."""

    def __init__(
        self,
        conn: Connection,
        pipeline: str,
        topic_id: str,
        owner: str,
        connect: Callable[[], Connection],
        lock_timeout_s: float = math.inf,
    ) -> None:
        """`connect` opens another session of the same role, used only to end a stuck previous owner."""
        self._conn = conn
        self._key = {"pipeline": pipeline, "topic_id": topic_id}
        self._owner = owner
        self._connect = connect
        self._patience_s = patience_s(PATIENCE_S, lock_timeout_s)

    def claim(self, partition: int) -> Claim:
        """Become the owner; waits for a batch that the previous owner has in flight, and returns the truth.

        Raises:
            ConfigurationError: the partition is not in the ledger: it was added behind our back.
        """
        key = {**self._key, "partition": partition}
        with freeing(self._conn, self._connect, PREVIOUS_OWNER, self._patience_s, key):
            row = self._conn.execute(SQL["claim"], {**key, "owner": self._owner}).fetchone()
        if row is None:
            raise ConfigurationError(
                f"Partition {partition} of the topic is not in the offset ledger: partitions were added behind our"
                " back, so the order of a ship's changes is not certain any more. `cdc-consumer repartition` takes"
                " them in (or `cdc-consumer reinit`, if the topic was made anew)."
            )
        return Claim(partition, *row)

    def advance(self, claim: Claim, to: int) -> Claim:
        """Move the chain on by one batch; the first statement of the batch's transaction.

        Raises:
            FenceLostError: another owner has claimed the partition; roll back.
        """
        key = {**self._key, "partition": claim.partition}
        chain = {"to": to, "fence": claim.fence, "batch_no": claim.batch_no}
        if self._conn.execute(SQL["advance"], {**key, **chain}).rowcount != 1:
            owner = self._conn.execute(SQL["owner"], key).fetchone()
            raise FenceLostError(
                f"partition {claim.partition} belongs to {owner[0] if owner else 'nobody'} now"
            )
        return replace(claim, batch_no=claim.batch_no + 1, next_offset=to)
