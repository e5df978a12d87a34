"""The replication slot: read, created, dropped.

In: a source connection in autocommit. Out: the slot's state, and at its creation the consistent point L0.
Guarantee: a creation that fails or times out leaves no slot behind, for an abandoned slot fills the
source's disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from cdc_consumer.source_database import SQL, blockers
from widetable.errors import ConfigurationError, UnreachableError
from widetable.lsn import parse_lsn
from widetable.postgres import Connection, fetch_one

FAILOVER_VERSION: Final = 170_000
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot. LSNs are integers; `retained_bytes` is the WAL that it keeps from being removed."""

    name: str
    plugin: str
    database: str
    active_pid: int | None
    confirmed_flush: int | None
    wal_status: str | None
    invalidation_reason: str | None
    retained_bytes: int

    @property
    def lost(self) -> str | None:
        """Why its changes are gone for good; None while they are there."""
        if self.invalidation_reason:
            return self.invalidation_reason
        return "its WAL was removed" if self.wal_status == "lost" else None


def read_slot(conn: Connection, name: str) -> Slot | None:
    """The slot, or None when there is none of that name."""
    row = conn.execute(SQL["slot"], {"slot": name}).fetchone()
    if row is None:
        return None
    facts: dict[str, Any] = row[0]  # as JSON, for its columns differ between server versions
    confirmed = facts.get("confirmed_flush_lsn")
    return Slot(
        name=name,
        plugin=facts["plugin"] or "physical",
        database=facts["database"] or "",
        active_pid=facts["active_pid"],
        confirmed_flush=None if confirmed is None else parse_lsn(confirmed),
        wal_status=facts.get("wal_status"),
        invalidation_reason=facts.get("invalidation_reason"),
        retained_bytes=int(row[1] or 0),
    )


def require_slot(conn: Connection, name: str) -> Slot:
    """The slot, which was there a moment ago.

    Raises:
        UnreachableError: somebody has just dropped it.
    """
    slot = read_slot(conn, name)
    if slot is None:
        raise UnreachableError("slot or topic vanished while they were looked at: run the command again")
    return slot


def create_slot(conn: Connection, name: str, wait_s: float) -> int:
    """Create the slot; returns its consistent point L0.

    The server waits there for every transaction that is open, ours included: `conn` must be in autocommit.

    Raises:
        UnreachableError: open transactions held it up for `wait_s`; the message lists them.
        ConfigurationError: all slots are taken, or the role may not make one.
    """
    failover = conn.info.server_version >= FAILOVER_VERSION
    query = SQL["create_failover_slot" if failover else "create_slot"]
    conn.execute("SELECT set_config('statement_timeout', %s, false)", [str(round(wait_s * 1000))])
    try:
        with _explained():
            return parse_lsn(fetch_one(conn, query, name)[0])
    except psycopg.errors.QueryCanceled as error:
        conn.execute("RESET statement_timeout")
        what = f"the replication slot {name} did not reach its consistent point"
        raise held_up(conn, what, wait_s) from error
    finally:
        if not conn.broken:
            conn.execute("RESET statement_timeout")


def drop_slot(conn: Connection, name: str, wait_s: float) -> bool:
    """Drop the slot once nobody reads it; False when there was none.

    Raises:
        ConfigurationError: it stays in use for `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    while (slot := read_slot(conn, name)) is not None:
        if slot.active_pid is None:
            try:
                conn.execute(SQL["drop_slot"], {"slot": name})
            except psycopg.errors.ObjectInUse:  # its reader was faster
                continue
            return True
        if time.monotonic() > deadline:
            raise in_use(slot)
        time.sleep(POLL_S)
    return False


def in_use(slot: Slot) -> ConfigurationError:
    """The error for a slot that somebody else reads."""
    return ConfigurationError(
        f"replication slot {slot.name} is in use by pid {slot.active_pid} of the source, which is not this"
        " pipeline's connector: stop that reader, or set CDC_CONNECT__SLOT to another name"
    )


def held_up(conn: Connection, what: str, wait_s: float) -> UnreachableError:
    """The error for a wait that open transactions held up; it lists them."""
    found = blockers(conn)
    listed = "; ".join(found) or "none visible to this role: grant it pg_read_all_stats to see them"
    return UnreachableError(
        f"{what} within {wait_s:.0f} s. It waits for open transactions to end: {listed}."
        " End them (pg_terminate_backend, COMMIT or ROLLBACK PREPARED) and run the command again"
    )


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.ConfigurationLimitExceeded as error:
        raise ConfigurationError(
            "all replication slots of the source are taken: raise max_replication_slots and restart"
            " PostgreSQL, or drop one that nobody reads (see pg_replication_slots)"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            "the source role may not create a replication slot: ALTER ROLE … REPLICATION"
            " (on a managed server, grant it the provider's replication role)"
        ) from error
