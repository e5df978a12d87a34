"""A transaction during which the stream stands still: nothing live is between its reads and its writes.

In: a session of the target. Out: a transaction that holds every ledger row of the pipeline, in the order in
which all writers lock. Guarantee: the session is on record meanwhile, so that live data that waits for it too
long may end it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Final

from widetable.errors import RetryableError
from widetable.postgres import Connection
from widetable.statements import load_statements

SQL: Final = load_statements(files("widetable") / "sql" / "standstill.sql")


@contextmanager
def standstill(conn: Connection, pipeline: str) -> Iterator[None]:
    """Run the block in such a transaction; `conn` is in autocommit.

    Raises:
        RetryableError: another session holds the stream.
    """
    values = {"pipeline": pipeline}
    conn.execute(SQL["announce"], values)
    with conn.transaction():
        if conn.execute(SQL["enter"], values).rowcount != 1:
            raise RetryableError("another command holds the stream just now: run this one again")
        conn.execute(SQL["lock_ledger"], values)
        yield
