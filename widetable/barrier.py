"""The xid barrier: why history and stream leave no gap between them.

A transaction that committed at or after the slot's consistent point L0 is in the stream. One that
committed before has a transaction id below S0, a number taken *after* the slot was made; so every snapshot
whose xmin has reached S0 sees it. `init` waits for that once; each slice of history checks it again in its
own snapshot, which makes reading from a standby safe, too.

Not used on purpose: `pg_snapshot_xmax` (a commit that waits for a synchronous standby slips through),
`pg_current_wal_lsn()` and clocks (a commit is in the WAL before it is visible), the largest created_time
(late rows).
"""

from __future__ import annotations

from dataclasses import dataclass

from widetable.errors import RetryableError, StoppedError
from widetable.hand_off import HandOff
from widetable.postgres import Connection, fetch_one


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Which cluster this is, and which of its histories it is living."""

    system_identifier: str
    timeline: int


def source_identity(conn: Connection) -> SourceIdentity:
    """The cluster's system identifier and timeline."""
    row = fetch_one(
        conn,
        "SELECT system_identifier::text, timeline_id FROM pg_control_system(), pg_control_checkpoint()",
    )
    return SourceIdentity(*row)


def take_barrier(conn: Connection) -> int:
    """S0: a transaction id of its own, committed at once; taken in autocommit, after the slot was made."""
    if not conn.autocommit:
        raise ValueError("an open transaction would hold the barrier up for ever")
    return int(fetch_one(conn, "SELECT pg_current_xact_id()::text")[0])


def barrier_passed(conn: Connection, barrier_xid: int) -> bool:
    """Whether everything older than the barrier is visible to this snapshot, or was rolled back."""
    passed = fetch_one(
        conn, "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %s::text::xid8", str(barrier_xid)
    )
    return bool(passed[0])


def require_barrier(conn: Connection, hand_off: HandOff) -> str:
    """Check a slice's snapshot, inside its REPEATABLE READ transaction; returns the snapshot as text.

    Raises:
        StoppedError: this is another cluster than the one that the stream comes from.
        RetryableError: the snapshot is too old; on a standby it catches up by itself.
    """
    system_identifier, snapshot = fetch_one(
        conn, "SELECT system_identifier::text, pg_current_snapshot()::text FROM pg_control_system()"
    )
    if system_identifier != hand_off.system_identifier:
        raise StoppedError(
            f"the source is cluster {system_identifier}, the stream comes from {hand_off.system_identifier}:"
            " history must be read from that cluster or a standby of it; check CDC_SOURCE__DSN"
        )
    if not barrier_passed(conn, hand_off.barrier_xid):
        raise RetryableError(
            f"the source's snapshot {snapshot} does not reach the barrier {hand_off.barrier_xid} yet:"
            " a transaction older than the replication slot is still open, or a standby lags"
        )
    return str(snapshot)
