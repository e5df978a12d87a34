"""Gates in the target database: a session is held at an exact point of its transaction, on a real server.

A gate is a trigger that waits for an advisory lock which the test holds. Nothing of the product knows of it, and
what waits is a real session of a real process, which the test may kill, stop or cut off from there.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Literal, Self

import psycopg
from psycopg import sql

from tests.waiting import wait_until

Place = Literal["before ledger", "after ledger", "in copy", "in write", "at commit"]

CATCH_S: Final = 45.0
SPACE: Final = 4_711
"""First key of the advisory locks, so that they are nobody else's."""

FUNCTION: Final = """
CREATE SCHEMA IF NOT EXISTS fault;
CREATE OR REPLACE FUNCTION fault.wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('application_name') LIKE TG_ARGV[1] THEN
        PERFORM pg_advisory_lock_shared(4711, TG_ARGV[0]::int);
        PERFORM pg_advisory_unlock_shared(4711, TG_ARGV[0]::int);
    END IF;
    RETURN NEW;
END $$;
"""
# A claim raises the fence and nothing else; a batch leaves it alone.
BATCH: Final = "WHEN (OLD.batch_no <> NEW.batch_no)"
# A batch whose offset stays, because an older row is still held, commits without being seen to.
ADVANCE: Final = "WHEN (OLD.next_offset < NEW.next_offset)"
TRIGGERS: Final[dict[Place, str]] = {
    # Of the statement, not of the row: a row's trigger fires when the row is locked already.
    "before ledger": "CREATE TRIGGER {name} BEFORE UPDATE ON {table} EXECUTE FUNCTION fault.wait({key}, {who})",
    "after ledger": "CREATE TRIGGER {name} AFTER UPDATE ON {table} FOR EACH ROW "
    + BATCH
    + " EXECUTE FUNCTION fault.wait({key}, {who})",
    "in copy": "CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW"
    " EXECUTE FUNCTION fault.wait({key}, {who})",
    # Of a row that is there already, too.
    "in write": "CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
    " EXECUTE FUNCTION fault.wait({key}, {who})",
    "at commit": "CREATE CONSTRAINT TRIGGER {name} AFTER UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW " + ADVANCE + " EXECUTE FUNCTION fault.wait({key}, {who})",
}


class Gate:
    """A closed gate for sessions whose application name is like `who`; leaving the context opens it.

    Args:
        dsn: the target database.
        place: where in a batch's transaction the session is held.
        tables: the wide tables (schema, name), for "in copy" and "in write"; the ledger otherwise.
        who: a LIKE pattern.
    """

    _next_key = 0

    def __init__(
        self, dsn: str, place: Place, tables: list[tuple[str, str]], who: str = "cdc-consumer%"
    ) -> None:
        Gate._next_key += 1
        self._key = Gate._next_key
        self._place = place
        self._tables = tables
        self._who = who
        self._conn = psycopg.connect(dsn, autocommit=True)
        self._closed = False

    def __enter__(self) -> Self:
        self._conn.execute(FUNCTION.encode())
        self._conn.execute("SELECT pg_advisory_lock(%s, %s)", (SPACE, self._key))
        self._closed = True
        for table in self._tables:
            statement = sql.SQL(TRIGGERS[self._place]).format(
                name=sql.Identifier(f"gate_{self._key}"),
                table=sql.Identifier(*table),
                key=sql.Literal(str(self._key)),
                who=sql.Literal(self._who),
            )
            self._conn.execute(statement)
        return self

    def caught(self) -> list[int]:
        """The sessions that wait here now."""
        query = (
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = %s AND objid = %s"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return [pid for (pid,) in self._conn.execute(query, (SPACE, self._key))]

    def catch(self) -> int:
        """Wait until a session is held here; returns its process id on the server."""
        wait_until(self.caught, f"a session comes to the gate {self._place!r}", CATCH_S)
        return self.caught()[0]

    def end_caught(self) -> None:
        """End the session that waits here, as an administrator or a failing server would."""
        for pid in self.caught():
            self._conn.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    def open(self) -> None:
        """Let everybody pass from now on."""
        if self._closed:
            self._closed = False
            self._conn.execute("SELECT pg_advisory_unlock(%s, %s)", (SPACE, self._key))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = False
        self._conn.close()  # the lock goes with its session
