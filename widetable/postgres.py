"""PostgreSQL sessions: opened with every timeout set, and errors sorted into retryable, fatal and ours.

A session pins what text depends on (`extra_float_digits`, DateStyle, time zone), so that a value reads the
same on both sides, and what bounds a stuck peer (`lock_timeout`, keepalives, `tcp_user_timeout`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import conninfo
from pydantic import SecretStr

from widetable.errors import ConfigurationError, RetryableError, UnreachableError, WideTableError
from widetable.settings import SourceSettings, TargetSettings

Connection = psycopg.Connection[tuple[Any, ...]]

TEXT_SETTINGS: Final = (
    "-c extra_float_digits=1 -c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c bytea_output=hex"
)
KEEPALIVE: Final = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

UNTRUSTED: Final = (
    "certificate verify failed",
    "does not match host name",
    "root certificate file",
    "server does not support SSL",
)
"""What libpq says where `sslmode=verify-full` (or `verify-ca`, `require`) is not met."""
HINT: Final = "Is the server running"  # libpq's last line, below the one that says what happened
NEVER: Final = 1 << 30
"""Executions before a statement is prepared by itself: only `prepare=True` prepares (None would forbid that)."""

# Classes of SQLSTATE after which the same transaction may well succeed: connection, transaction rollback,
# resources, operator intervention, system error; lock_not_available; read_only_sql_transaction.
RETRYABLE_CLASSES: Final = frozenset({"08", "40", "53", "57", "58"})
RETRYABLE_STATES: Final = frozenset({"55P03", "25006", "25P03", "25P04"})
# An ended statement is an outage too, but a person's cancel of the whole program is not.
AUTH_CLASSES: Final = frozenset({"28", "3D"})


def connect_source(
    settings: SourceSettings, application: str, *, autocommit: bool = True, patience_s: float | None = None
) -> Connection:
    """Open a session on the source database, with text settings pinned.

    Args:
        settings: of the source.
        application: name that the server's list of sessions shows.
        autocommit: whether each statement is its own transaction.
        patience_s: the longest that a statement may take; a lock gets half of it, so that the error says which it
            was. None for no limit.
    """
    dsn, timeout_s = settings.dsn.get_secret_value(), settings.connect_timeout_s
    limit_ms = round(1000 * (patience_s or 0))
    extra = f" -c lock_timeout={limit_ms // 2} -c statement_timeout={limit_ms}" if limit_ms else ""
    return _connect(dsn, "source", "CDC_SOURCE__DSN", application, timeout_s, extra, autocommit)


def connect_target(settings: TargetSettings, application: str, *, autocommit: bool = True) -> Connection:
    """Open a session on the target database: READ COMMITTED, with lock and idle timeouts set."""
    return _connect_target(settings, settings.dsn, "CDC_TARGET__DSN", application, autocommit)


def connect_ddl(settings: TargetSettings, application: str) -> Connection:
    """Open an autocommit session on the target as the role that owns the tables there."""
    if settings.ddl_dsn is None:
        return connect_target(settings, application)
    return _connect_target(settings, settings.ddl_dsn, "CDC_TARGET__DDL_DSN", application, autocommit=True)


def _connect_target(
    settings: TargetSettings, dsn: SecretStr, setting: str, application: str, autocommit: bool
) -> Connection:
    extra = (
        f" -c lock_timeout={settings.lock_timeout_ms}"
        f" -c idle_in_transaction_session_timeout={settings.idle_in_transaction_timeout_ms}"
        " -c default_transaction_isolation=read\\ committed -c jit=off -c plan_cache_mode=force_generic_plan"
    )
    timeout_s = settings.connect_timeout_s
    return _connect(dsn.get_secret_value(), "target", setting, application, timeout_s, extra, autocommit)


def session_dsn(dsn: str, application: str, connect_timeout_s: int, extra_options: str = "") -> str:
    """`dsn` with keepalives, application name and pinned text settings added; the user's own options win."""
    given = conninfo.conninfo_to_dict(dsn)
    if "@" in str(
        given.get("host", "")
    ):  # the rest of a password, which an error would show as a host's name
        raise psycopg.ProgrammingError("an @ in the host's name")
    options = f"{TEXT_SETTINGS}{extra_options} {given.pop('options', '')}".strip()
    defaults: dict[str, Any] = {
        "client_encoding": "UTF8",  # COPY sends our bytes as they are
        **KEEPALIVE,
        "application_name": application,
        "connect_timeout": str(connect_timeout_s),
    }
    return conninfo.make_conninfo("", **{**defaults, **given, "options": options})


def _connect(
    dsn: str, side: str, setting: str, application: str, timeout_s: int, extra: str, autocommit: bool
) -> Connection:
    try:
        full = session_dsn(dsn, application, timeout_s, extra)
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f"{setting} is not a connection string PostgreSQL understands; write it as postgresql://user@host/db,"
            " with %40 for an @ in the password"
        ) from error
    try:
        return psycopg.connect(full, autocommit=autocommit, prepare_threshold=NEVER)
    except psycopg.OperationalError as error:
        raise connect_error(error, side, setting) from error


def connect_error(error: Exception, side: str, setting: str) -> WideTableError:
    """Sort a refused connection: wrong credentials or database are configuration, the rest may pass."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(HINT)]
    reason = told[-1] if told else type(error).__name__
    if any(part in reason for part in UNTRUSTED):
        return ConfigurationError(
            f"The {side} database's certificate is not trusted: {reason}. Set sslrootcert in {setting} to the"
            " authority that signed it, and use a host name that stands in it."
        )
    wrong = ("password authentication failed", "does not exist", "no password supplied", "pg_hba.conf")
    if any(part in reason for part in wrong):
        return ConfigurationError(f"The {side} database refused the connection: {reason}. Check {setting}.")
    return UnreachableError(
        f"The {side} database does not answer: {reason}. Is it up, and is {setting} right?"
    )


def is_retryable(error: psycopg.Error) -> bool:
    """Whether the same transaction may succeed later: outages, deadlocks, timeouts, full disks."""
    state = error.sqlstate
    if state is None:  # no SQLSTATE: libpq itself failed, the connection is gone
        return isinstance(error, psycopg.OperationalError)
    return state[:2] in RETRYABLE_CLASSES or state in RETRYABLE_STATES


@contextmanager
def retryable_errors(doing: str) -> Iterator[None]:
    """Turn what may pass by itself into `RetryableError`, so that callers have one thing to catch."""
    try:
        yield
    except psycopg.Error as error:
        if is_retryable(error):
            raise RetryableError(f"{doing}: {str(error).strip() or type(error).__name__}") from error
        raise


def fetch_one(conn: Connection, query: LiteralString, *params: object) -> tuple[Any, ...]:
    """The single row of a query that always returns one."""
    row = conn.execute(query, params).fetchone()
    if row is None:
        raise LookupError(query)
    return row
