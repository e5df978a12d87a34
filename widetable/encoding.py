"""Which encodings the two databases may have: each text of the source must be one that the target can hold.

A database of encoding SQL_ASCII takes any bytes and says of none what it means; one that is not UTF8 lacks most
characters. Neither is found out before the first text that needs it, and that one costs its whole transaction.
"""

from __future__ import annotations

from widetable.errors import ConfigurationError
from widetable.postgres import Connection, fetch_one


def source_encoding_problem(conn: Connection) -> str | None:
    """Why texts of the source can't be read for sure, and what to do."""
    if _encoding(conn) != "SQL_ASCII":
        return None
    return (
        "the source database's encoding is SQL_ASCII, so nobody knows which characters its bytes are: dump it,"
        " restore it into a database that was made with ENCODING 'UTF8', and let CDC_SOURCE__DSN name that one"
    )


def target_encoding_problem(conn: Connection) -> str | None:
    """Why the target can't hold every text, and what to do."""
    if (encoding := _encoding(conn)) == "UTF8":
        return None
    return (
        f"the target database's encoding is {encoding}, which can't hold every text of the source: CREATE DATABASE"
        " … ENCODING 'UTF8' TEMPLATE template0, and let CDC_TARGET__DSN name that one"
    )


def require_source_encoding(conn: Connection) -> None:
    """Refuse a source whose texts can't be read for sure.

    Raises:
        ConfigurationError: the message says what to do.
    """
    if problem := source_encoding_problem(conn):
        raise ConfigurationError(problem)


def require_target_encoding(conn: Connection) -> None:
    """Refuse a target that can't hold every text.

    Raises:
        ConfigurationError: the message says what to do.
    """
    if problem := target_encoding_problem(conn):
        raise ConfigurationError(problem)


def _encoding(conn: Connection) -> str:
    return str(fetch_one(conn, "SELECT current_setting('server_encoding')")[0])
