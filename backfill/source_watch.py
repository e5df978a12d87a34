"""The source as the governor of a run sees it: who else is at work there, and how much WAL the slot retains.

In: a slot's name. Out: a `Load`, or None while the source does not answer. Sessions of other roles are seen by
roles that have `pg_read_all_stats` only; waits for locks are seen by everyone.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import sql

from backfill.pace import Load
from widetable.errors import WideTableError
from widetable.postgres import Connection, connect_source
from widetable.settings import SourceSettings
from widetable.statements import load_statements

SQL: Final = load_statements(files("backfill") / "sql" / "source.sql")
CONNECT_TIMEOUT_S: Final = 2
"""Looking must not keep a run from hearing Ctrl+C."""


class SourceWatch:
    """A session on the source; opened when it is needed, and again after an outage."""

    def __init__(self, settings: SourceSettings) -> None:
        self._settings = settings.model_copy(update={"connect_timeout_s": CONNECT_TIMEOUT_S})
        self._conn: Connection | None = None

    def look(self, slot: str | None) -> Load | None:
        """What the source has to do now; None if it does not answer."""
        try:
            if self._conn is None:
                self._conn = connect_source(self._settings, "backfill watch")
            active, waiting, locked = self._one("load") or (0, 0, 0)
            found = self._one("slot", slot=sql.Literal(slot)) if slot else None
            retained, budget = found or (None, None)
            return Load(active, max(waiting, locked), retained, budget)
        except (psycopg.Error, WideTableError):
            self.close()
            return None

    def close(self) -> None:
        """End the session; harmless when it is gone."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _one(self, name: str, **parts: sql.Composable) -> tuple[Any, ...] | None:
        if self._conn is None:
            return None
        return self._conn.execute(sql.SQL(SQL[name]).format(**parts)).fetchone()
