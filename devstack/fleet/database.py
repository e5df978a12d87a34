"""The fleet's way into the source database: sessions, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors

from widetable.errors import ConfigurationError, UnreachableError

Connection = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def fleet_session(dsn: str) -> Iterator[Connection]:
    """A session with autocommit off, closed at the end; `now()::timestamp` is UTC in it.

    It sets no lock_timeout: the fleet is the source's own application, and waits as one would.

    Raises:
        UnreachableError: the server can't be reached, or went away.
        ConfigurationError: the narrow table is missing, may not be written, or has these keys already.
    """
    with named_errors(), psycopg.connect(dsn, application_name="fleet") as conn:
        # Not as connection options: those would take the place of the DSN's own.
        conn.execute("SET TimeZone TO 'UTC'")
        conn.commit()
        yield conn


@contextmanager
def named_errors() -> Iterator[None]:
    """Turn what a person can mend into the project's errors."""
    try:
        yield
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise ConfigurationError(
            "The source has no tenant.tbl_data_timeseries; create the narrow table, or check --dsn."
        ) from error
    except errors.UniqueViolation as error:
        raise ConfigurationError(
            "Part of this is in tenant.tbl_data_timeseries already, so nothing was added;"
            " choose another time or other ships."
        ) from error
    except errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{_first_line(error)}; grant it, or use the table's owner in --dsn."
        ) from error
    except psycopg.OperationalError as error:
        raise UnreachableError(
            f"The source database failed: {_first_line(error)}. Is it up, is --dsn right?"
        ) from error


def written_span(conn: Connection) -> tuple[datetime, datetime] | None:
    """The first and the last moment in the narrow table; None while it is empty."""
    row = conn.execute(
        "SELECT min(created_time), max(created_time) FROM tenant.tbl_data_timeseries"
    ).fetchone()
    conn.commit()
    return None if row is None or row[0] is None else (row[0], row[1])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
