"""What the source contains: its ships, and the channels, formats and lengths of the last minutes.

In: a session on the source. Out: a `Sample`. Guarantee: nothing here scans the narrow table, which may hold
billions of rows; every query walks an index and reads what the sample holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import sql

from widetable.errors import ConfigurationError
from widetable.narrow import FORMATS, VALUE_COLUMNS
from widetable.postgres import Connection
from widetable.settings import SourceSettings
from widetable.statements import load_statements
from widetable.values import ColumnType, value_sql

SQL: Final = load_statements(files("widetable") / "sql" / "sampling.sql")
TYPE_OF_FORMAT: Final[Mapping[str, ColumnType]] = {
    "Decimal": "float8",
    "Integer": "int8",
    "String": "text",
    "Boolean": "bool",
}


@dataclass(frozen=True, slots=True)
class ChannelSample:
    """What was seen of one channel.

    Attributes:
        formats: samples by value_format, the most frequent first; a sample without a usable format counts for
            that of the only value column that is set.
        text_bytes: average length of a value's text.
        longest_bytes: length of the longest.
    """

    channel_id: str
    formats: Mapping[str, int]
    text_bytes: float
    longest_bytes: int

    @property
    def column_type(self) -> ColumnType | None:
        """The type that the most frequent format calls for; None if no sample had a value."""
        return TYPE_OF_FORMAT[next(iter(self.formats))] if self.formats else None


@dataclass(frozen=True, slots=True)
class Sample:
    """What the source contains; `since` and `until` are None if it is empty."""

    ships: tuple[str, ...]
    since: datetime | None = None
    until: datetime | None = None
    channels: Mapping[str, ChannelSample] = field(default_factory=dict)


def source_ships(conn: Connection, source: SourceSettings) -> tuple[str, ...]:
    """Every ship that the narrow table holds.

    Raises:
        ConfigurationError: no such table, or no right to read it.
    """
    with _readable(source):
        return tuple(ship_id for (ship_id,) in conn.execute(_statement("ships", source)))


def take_sample(
    conn: Connection,
    source: SourceSettings,
    *,
    minutes: int,
    ships: Sequence[str] = (),
    listed: Collection[str] = (),
) -> Sample:
    """Look at the last `minutes`; of listed channels that were silent then, at the last sample.

    Args:
        conn: a session on the source, with text settings pinned.
        source: names the narrow table.
        minutes: length of the window.
        ships: only these; all of the source if empty.
        listed: channel ids that the channel lists name.

    Raises:
        ConfigurationError: no such table, no right to read it, or a ship that the source does not have.
    """
    known = source_ships(conn, source)
    if unknown := set(ships) - set(known):
        raise ConfigurationError(
            f"The source has no samples of ship {', '.join(sorted(unknown))};"
            f" it has {', '.join(known) or 'no ships at all'}."
        )
    chosen = tuple(ships) or known
    with _readable(source):
        until = _latest(conn, source)
        since = until - timedelta(minutes=minutes) if until else None
        channels = _seen(conn, source, since, until, ships) if since and until else {}
        silent = sorted(set(listed) - channels.keys())
        return Sample(chosen, since, until, channels | _last_seen(conn, source, chosen, silent))


def _latest(conn: Connection, source: SourceSettings) -> datetime | None:
    row = conn.execute(_statement("latest", source)).fetchone()
    return row[0] if row else None


def _seen(
    conn: Connection, source: SourceSettings, since: datetime, until: datetime, ships: Sequence[str]
) -> dict[str, ChannelSample]:
    chosen = (
        sql.SQL("t.ship_id = ANY ({}::text[])").format(sql.Literal(list(ships))) if ships else sql.SQL("true")
    )
    bounds = {"since": sql.Literal(since), "until": sql.Literal(until), "ship_condition": chosen}
    return _channel_samples(conn.execute(_statement("channels", source, **bounds)))


def _last_seen(
    conn: Connection, source: SourceSettings, ships: Sequence[str], channels: Sequence[str]
) -> dict[str, ChannelSample]:
    if not ships or not channels:
        return {}
    wanted = {
        name: sql.SQL("{}::text[]").format(sql.Literal(list(ids)))
        for name, ids in (("ships", ships), ("channels", channels))
    }
    return _channel_samples(conn.execute(_statement("silent", source, **wanted)))


def _channel_samples(rows: Iterable[tuple[Any, ...]]) -> dict[str, ChannelSample]:
    """One entry per channel from rows of (channel, format, count, average bytes, longest), by channel."""
    by_channel: dict[str, list[tuple[Any, ...]]] = {}
    for channel_id, *rest in rows:
        by_channel.setdefault(channel_id, []).append(tuple(rest))
    return {channel_id: _channel_sample(channel_id, found) for channel_id, found in by_channel.items()}


def _channel_sample(channel_id: str, found: list[tuple[Any, ...]]) -> ChannelSample:
    valued = [(count, float(average), longest) for _, count, average, longest in found if average is not None]
    samples = sum(count for count, *_ in valued)
    return ChannelSample(
        channel_id,
        formats={value_format: count for value_format, count, *_ in found if value_format is not None},
        text_bytes=sum(count * average for count, average, _ in valued) / samples if samples else 0.0,
        longest_bytes=max((longest for *_, longest in valued), default=0),
    )


def _statement(name: str, source: SourceSettings, **parts: sql.Composable) -> sql.Composed:
    table = sql.Identifier(*source.table.split("."))
    known = {"table": table, "value": sql.SQL(value_sql("t")), "format": sql.SQL(_format_sql())}
    return sql.SQL(SQL[name]).format(**known, **parts)


def _format_sql() -> str:
    """The format of sample `t`: as it says, if that is known, else that of the only value column set."""
    known = ", ".join(f"'{name}'" for name in FORMATS)
    columns = [f"t.{name}" for name in VALUE_COLUMNS]
    only = "".join(
        f" WHEN {column} IS NOT NULL THEN '{name}'" for name, column in zip(FORMATS, columns, strict=True)
    )
    return (
        f"CASE WHEN t.value_format IN ({known}) THEN t.value_format"
        f" WHEN num_nonnulls({', '.join(columns)}) = 1 THEN CASE{only} END END"
    )


@contextmanager
def _readable(source: SourceSettings) -> Iterator[None]:
    """Say what is wrong with the narrow table, if it can't be read."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise ConfigurationError(
            f"The source database has no table {source.table}: check CDC_SOURCE__TABLE and the database in"
            " CDC_SOURCE__DSN."
        ) from error
    except psycopg.errors.UndefinedColumn as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"{source.table} is not a narrow table: {reason}. Check CDC_SOURCE__TABLE."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"The source role may not read {source.table}: GRANT USAGE on its schema and SELECT on it."
        ) from error
