"""What the source contains: its ships, and the channels, formats and lengths of the last minutes.

In: a session on the source. Out: a `Sample`. Guarantee: nothing here scans the narrow table, which may hold
billions of rows; every query walks an index and reads what the sample holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from widetable.errors import ConfigurationError
from widetable.narrow import FORMATS, VALUE_COLUMNS
from widetable.planner import NEVER_TOASTED_BYTES, ColumnSize
from widetable.postgres import Connection
from widetable.settings import SourceSettings
from widetable.statements import load_statements
from widetable.values import ColumnType, value_sql

SQL: Final = load_statements(files("widetable") / "sql" / "sampling.sql")
MICROSECOND: Final = timedelta(microseconds=1)
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
    """What the source contains; `since` and `until` are None if it is empty.

    `excess_bytes` says, by table number, how many bytes more than the average values of its channels the 99.9th
    percentile of the observed rows takes.
    """

    ships: tuple[str, ...]
    since: datetime | None = None
    until: datetime | None = None
    channels: Mapping[str, ChannelSample] = field(default_factory=dict)
    excess_bytes: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """Which samples to look at: the last `minutes`, or with a bound all of a period (upper bound exclusive)."""

    minutes: int = 60
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_period(self) -> bool:
        """A person said from when or until when."""
        return self.since is not None or self.until is not None

    def bounds(self, latest: datetime | None) -> tuple[datetime | None, datetime | None]:
        """(exclusive, inclusive) moments: an upper None is an empty source, a lower None no bound."""
        if latest is None:
            return None, None
        until = latest if self.until is None else self.until - MICROSECOND
        if not self.is_period:
            return until - timedelta(minutes=self.minutes), until
        return (self.since - MICROSECOND if self.since else None), until

    def __str__(self) -> str:
        """The period in words."""
        named = {"from": self.since, "until": self.until}
        return " ".join(f"{word} {moment.isoformat(' ')}" for word, moment in named.items() if moment)


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
    window: Window,
    ships: Sequence[str] = (),
    tables: Mapping[str, int] = MappingProxyType({}),
    others: Iterable[str] = (),
) -> Sample:
    """Look at the samples in the window; of named channels that were silent then, at the last sample.

    Args:
        conn: a session on the source, with text settings pinned.
        source: names the narrow table.
        window: which samples.
        ships: only these; all of the source if empty.
        tables: the listed channels, and the table of each.
        others: channels that stand in no list.

    Raises:
        ConfigurationError: no such table, no right to read it, a ship that the source does not have, or a period
            without samples.
    """
    known = source_ships(conn, source)
    if unknown := set(ships) - set(known):
        raise ConfigurationError(
            f"The source has no samples of ship {', '.join(sorted(unknown))};"
            f" it has {', '.join(known) or 'no ships at all'}."
        )
    chosen = tuple(ships) or known
    with _readable(source):
        looked = Looked(conn, source, *window.bounds(_latest(conn, source)), ships)
        channels = looked.channels()
        if window.is_period and not channels:
            raise ConfigurationError(
                f"The source has no samples {window}: choose another --from and --until."
            )
        silent = sorted({*tables, *others} - channels.keys())
        known_channels = channels | _last_seen(conn, source, chosen, silent)
        return Sample(chosen, looked.since, looked.until, known_channels, looked.excess(channels, tables))


def _latest(conn: Connection, source: SourceSettings) -> datetime | None:
    row = conn.execute(_statement("latest", source)).fetchone()
    return row[0] if row else None


@dataclass(frozen=True, slots=True)
class Looked:
    """The samples of some ships (all if none is named) in a window, which is empty without an upper bound."""

    conn: Connection
    source: SourceSettings
    since: datetime | None
    until: datetime | None
    ships: Sequence[str]

    def channels(self) -> dict[str, ChannelSample]:
        """What was seen of each channel."""
        return _channel_samples(self._run("channels")) if self.until else {}

    def excess(self, channels: Mapping[str, ChannelSample], tables: Mapping[str, int]) -> dict[int, float]:
        """`Sample.excess_bytes`."""
        seen = sorted(channel for channel in channels.keys() & tables.keys() if channels[channel].formats)
        if not seen:
            return {}
        typical = [ColumnSize("text", channels[channel].text_bytes).typical_bytes for channel in seen]
        found = self._run(
            "excess",
            never_toasted=sql.Literal(NEVER_TOASTED_BYTES),
            channels=_array(seen, "text"),
            tables=_array([tables[channel] for channel in seen], "int"),
            bytes=_array(typical, "float8"),
        )
        return {table_no: float(excess) for table_no, excess in found}

    def _run(self, name: str, **parts: sql.Composable) -> Iterable[tuple[Any, ...]]:
        chosen = sql.SQL("true").format()
        if self.ships:
            chosen = sql.SQL("t.ship_id = ANY ({})").format(_array(self.ships, "text"))
        bounds = {"since": sql.Literal(self.since or "-infinity"), "until": sql.Literal(self.until)}
        return self.conn.execute(_statement(name, self.source, ship_condition=chosen, **bounds, **parts))


def _array(values: Sequence[Any], element: LiteralString) -> sql.Composed:
    return sql.SQL("{}::{}[]").format(sql.Literal(list(values)), sql.SQL(element))


def _last_seen(
    conn: Connection, source: SourceSettings, ships: Sequence[str], channels: Sequence[str]
) -> dict[str, ChannelSample]:
    if not ships or not channels:
        return {}
    wanted = {"ships": _array(ships, "text"), "channels": _array(channels, "text")}
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
