"""Ships as the target knows them: newest moment of each, and its history by days.

In: the control schema and the wide tables. Out: plain values for the status page. Asked only while somebody looks
at the page, and then every few seconds at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from psycopg import sql

from cdc_consumer.heat_map import DAY_US, SliceSpan, Span, heat_map
from cdc_consumer.settings import Settings
from widetable.control import check_control
from widetable.layout import WideTable, load_layout
from widetable.postgres import Connection, connect_target
from widetable.statements import load_statements

SQL: Final = load_statements(files("cdc_consumer") / "sql" / "fleet.sql")
TABLES_AT_ONCE: Final = 200
PATIENCE: Final = "SET statement_timeout = '10s'"
"""A page that somebody looks at is not worth more of the target's time."""

NEWEST: Final = sql.SQL(
    "SELECT {ship}::text, (extract(epoch FROM max(created_time)) * 1000000)::bigint FROM {table}"
    " WHERE created_time < 'infinity'"
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is known of each ship; moments are microseconds since 1970, None where there is none."""

    newest_us: dict[str, int | None]
    verified_us: dict[str, int | None]
    span: Span | None
    history: dict[str, str]

    def facts(self) -> dict[str, Any]:
        """For the page, as plain values."""
        ships = [
            {"ship": ship, "newest": _moment(newest), "verified": _moment(self.verified_us.get(ship))}
            for ship, newest in self.newest_us.items()
        ]
        if self.span is None:
            return {"ships": ships, "history": None}
        starts = [self.span.start_us + self.span.bucket_us * number for number in range(self.span.buckets)]
        days = [_day(start_us) for start_us in starts]
        rows = [{"ship": ship, "cells": cells} for ship, cells in self.history.items()]
        return {
            "ships": ships,
            "history": {"days": days, "bucket_days": self.span.bucket_us // DAY_US, "rows": rows},
        }


def read_fleet(settings: Settings) -> Fleet:
    """Read it on a session of its own.

    Raises:
        WideTableError: the target does not answer, or has no wide tables.
    """
    with connect_target(settings.target, "cdc-consumer page") as conn:
        check_control(conn, settings.target.control_schema)
        conn.execute(PATIENCE)
        key = {"pipeline": settings.pipeline.name}
        verified: dict[str, int | None] = dict(conn.execute(SQL["ships"], key).fetchall())
        newest = dict.fromkeys(verified) | _newest(conn)
        span = _span(conn, key)
        history = {} if span is None else _history(conn, key, span, verified)
        return Fleet(newest, verified, span, history)


def _newest(conn: Connection) -> dict[str, int | None]:
    """The newest moment of each ship, over all of its tables; the key makes each a single look."""
    newest: dict[str, int | None] = {}
    tables = list(load_layout(conn).tables.values())
    for start in range(0, len(tables), TABLES_AT_ONCE):
        for ship, moment_us in conn.execute(_union(tables[start : start + TABLES_AT_ONCE])):
            if moment_us is not None:
                newest[ship] = max(moment_us, newest.get(ship) or moment_us)
    return newest


def _union(tables: Sequence[WideTable]) -> sql.Composed:
    parts = [NEWEST.format(ship=sql.Literal(table.ship_id), table=table.identifier) for table in tables]
    return sql.SQL(" UNION ALL ").join(parts)


def _span(conn: Connection, key: dict[str, Any]) -> Span | None:
    """The days from the oldest bound of a slice to the newest; None where nothing was planned."""
    plans = conn.execute(SQL["plans"], key).fetchall()
    if not plans:
        return None
    made_us = max(created_us for _, _, created_us in plans)
    first_us, end_us, from_ever, until_ever = conn.execute(SQL["span"], key).fetchall()[0]
    first_us = made_us if first_us is None else first_us
    end_us = max(made_us, end_us or made_us) if until_ever or end_us is None else end_us
    return Span.of(first_us - DAY_US if from_ever else first_us, end_us)


def _history(
    conn: Connection, key: dict[str, Any], span: Span, verified: dict[str, int | None]
) -> dict[str, str]:
    plans = {plan_id: frozenset(ships) for plan_id, ships, _ in conn.execute(SQL["plans"], key)}
    shape = {"start_us": span.start_us, "bucket_us": span.bucket_us, "last": span.buckets - 1}
    return heat_map(span, plans, _slices(conn, key | shape), verified)


def _slices(conn: Connection, values: dict[str, Any]) -> Iterator[SliceSpan]:
    for row in conn.execute(SQL["slices"], values):
        yield SliceSpan(*row)


def _moment(moment_us: int | None) -> str | None:
    return None if moment_us is None else _datetime(moment_us).isoformat(timespec="seconds")


def _day(moment_us: int) -> str:
    return _datetime(moment_us).date().isoformat()


def _datetime(moment_us: int) -> datetime:
    """PostgreSQL knows moments that Python does not: those become the nearest that it does."""
    seconds = min(max(moment_us // 1_000_000, -62_135_596_800), 253_402_300_799)
    return datetime.fromtimestamp(seconds, UTC)
