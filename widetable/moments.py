"""Moments as this program meets them: typed by a person, shown to one, and as SQL.

Inside, a moment is int64 microseconds since 1970, as in `NarrowBatch`. created_time has no time zone.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import numpy as np
from psycopg import sql

EPOCH: Final = datetime(1970, 1, 1)
MICROSECOND: Final = timedelta(microseconds=1)
DAY_US: Final = 86_400_000_000


def parse_moment(text: str) -> int:
    """A timestamp without time zone, ISO 8601 (`2025-01-31`, `2025-01-31T08:00:00.5`), in microseconds.

    Raises:
        ValueError: not a timestamp, or one with a time zone; the message names the text.
    """
    wrong = f"{text!r} is not a timestamp like 2025-01-31T08:00:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{wrong}: {error}") from error
    if moment.tzinfo is not None:
        raise ValueError(f"{wrong}: created_time has no time zone, leave it away")
    return (moment - EPOCH) // MICROSECOND


def moment_datetime(moment_us: int) -> datetime:
    """The moment for psycopg; within the years that a datetime has."""
    return EPOCH + moment_us * MICROSECOND


def moment_text(moment_us: int) -> str:
    """ISO 8601, as short as it can be said exactly."""
    moment = np.datetime64(moment_us, "us")
    return str(moment.astype("datetime64[s]") if moment_us % 1_000_000 == 0 else moment)


def moment_sql(moment_us: int) -> sql.Composed:
    """The moment as a constant expression.

    Exact for every timestamp: a `bigint * interval` goes through float8, and datetime ends in the year 9999.
    The planner folds it to a constant, so an index on created_time is used.
    """
    days, rest = divmod(moment_us, DAY_US)
    seconds, micros = divmod(rest, 1_000_000)
    # The explicit plus keeps a negative number of days from being read as the sign of the time.
    time = f"+{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{micros:06}"
    return sql.SQL("timestamp 'epoch' + interval {}").format(sql.Literal(f"{days} days {time}"))
