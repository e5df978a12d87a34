"""A small source and target, filled cell by cell, for the tests of verify."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from pydantic import SecretStr

from devstack.databases import Server
from devstack.pytest_plugin import fresh_database
from widetable.channel_map import column_names
from widetable.ddl import apply_schema
from widetable.postgres import Connection, connect_source, connect_target
from widetable.schema_plan import ColumnTypes, PlannedChannel, SchemaPlan, System
from widetable.settings import SourceSettings, TargetSettings
from widetable.values import ColumnType
from widetable.verify import Limits, Scope, Source, Target, Verifier, VerifyReport
from widetable.verify.judge import Settle

TABLE = "tenant.tbl_data_timeseries"
SHIP, SISTER = "IMO9000001", "IMO9000002"
NOON, LATER = "2026-01-01 12:00:00", "2026-01-01 12:00:15"
LOAD, SPEED, STATE, ALARM = "me/load", "nav/speed", "me/state", "me/alarm"
HOSTILE = "odd/\"quoted\"; DROP TABLE x; -- 100%s {0} 'single' and more than 63 bytes"
CHANNELS = {LOAD: 1, STATE: 1, HOSTILE: 1, SPEED: 2, ALARM: 2}
TYPES: dict[str, ColumnType] = {
    LOAD: "float8",
    STATE: "text",
    HOSTILE: "int8",
    SPEED: "float8",
    ALARM: "bool",
}


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides; every method is one committed change."""

    source_settings: SourceSettings
    target_settings: TargetSettings
    source: Connection
    target: Connection

    def sample(self, channel: str, at: str = NOON, ship: str = SHIP, **columns: Any) -> None:
        """Insert a narrow row; a value column that is not given is NULL."""
        names = {"double_v": "Decimal", "long_v": "Integer", "str_v": "String", "bool_v": "Boolean"}
        formats = {"value_format": names[next(iter(columns))]} if columns else {}
        row = {"ship_id": ship, "data_channel_id": channel, "created_time": at, **formats, **columns}
        query = sql.SQL("INSERT INTO tenant.tbl_data_timeseries ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(sql.Placeholder() * len(row))
        )
        self.source.execute(query, list(row.values()))

    def update(self, channel: str, at: str = NOON, ship: str = SHIP, **columns: Any) -> None:
        """Change a narrow row."""
        query = sql.SQL("UPDATE tenant.tbl_data_timeseries SET {} WHERE {}").format(
            sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in columns),
            sql.SQL("(ship_id, data_channel_id, created_time) = (%s, %s, %s::timestamp)"),
        )
        self.source.execute(query, [*columns.values(), ship, channel, at])

    def delete(self, channel: str, at: str = NOON, ship: str = SHIP) -> None:
        """Delete a narrow row."""
        query = f"DELETE FROM {TABLE} WHERE (ship_id, data_channel_id, created_time) = (%s, %s, %s)"
        self.source.execute(query, [ship, channel, at])

    def hold(
        self, channel: str, value: str | None, at: str = NOON, ship: str = SHIP, kind: str | None = None
    ) -> None:
        """Set a wide cell, with a version of that kind."""
        number, ordinal, column = self._place(channel)
        versions = None if kind is None else json.dumps({ordinal: [1, 1, kind]})
        query = sql.SQL(
            "INSERT INTO {table} AS t (created_time, _x, {column}) VALUES ({at}, {versions}, {value})"
            " ON CONFLICT (created_time) DO UPDATE SET {column} = excluded.{column},"
            " _x = nullif(coalesce(t._x, '{{}}') || coalesce(excluded._x, '{{}}'), '{{}}')"
        ).format(
            table=sql.Identifier("tenant", f"tbl_data_timeseries_{ship.lower()}_{number}"),
            column=sql.Identifier(column),
            at=sql.Literal(at),
            versions=sql.Literal(versions),
            value=sql.Literal(value),
        )
        self.target.execute(query)

    def hold_all(self, cells: Iterable[tuple[str, str | None, str, str]]) -> None:
        """Set wide cells, given as (channel, value, moment, ship)."""
        for cell in cells:
            self.hold(*cell)

    def both(self, channel: str, value: str | None, at: str = NOON, ship: str = SHIP, **columns: Any) -> None:
        """Insert a narrow row, and the wide cell that it must become."""
        self.sample(channel, at, ship, **columns)
        self.hold(channel, value, at, ship)

    def overflow(
        self, channel: str, value: str | None, at: str = NOON, ship: str = SHIP, kind: str | None = None
    ) -> None:
        """Put a cell into overflow, with a version of that kind."""
        version = (None, None) if kind is None else (1, 1)
        self.target.execute(
            "INSERT INTO overflow_cell (ship_id, created_time, channel_id, value, epoch, lsn, kind, reason)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, 'pending')",
            [ship, at, channel, value, *version, kind],
        )

    def verifier(self, settle: Settle | None = None, **limits: Any) -> Verifier:
        """A verifier on both sessions."""
        return Verifier(
            Source(self.source, TABLE),
            Target(self.target, self.target_settings.control_schema),
            settle,
            Limits(**limits),
        )

    def verify(self, settle: Settle | None = None, scope: Scope | None = None, **limits: Any) -> VerifyReport:
        """Compare both sides."""
        return self.verifier(settle, **limits).run(scope or Scope())

    def clear(self) -> None:
        """Empty both sides and put the policies back, for the next test."""
        self.source.execute(f"TRUNCATE {TABLE}")
        query = "SELECT relname FROM pg_class WHERE relnamespace = 'tenant'::regnamespace AND relkind = 'r'"
        for (name,) in self.target.execute(query).fetchall():
            self.target.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier("tenant", name)))
        self.target.execute("TRUNCATE overflow_cell, dead_cell, verified, settled")
        self.target.execute("UPDATE layout SET deletes = 'apply', new_ships = 'auto'")

    def _place(self, channel: str) -> tuple[int, int, str]:
        query = "SELECT table_no, ordinal, column_name FROM channel WHERE channel_id = %s"
        row = self.target.execute(query, [channel]).fetchone()
        assert row is not None, channel
        return row[0], row[1], row[2]


@contextmanager
def new_sides(
    source_server: Server, target_server: Server, column_type: ColumnTypes = "text"
) -> Iterator[Sides]:
    """Both sides, in databases of their own."""
    with (
        fresh_database(source_server, "source", narrow=True) as source_dsn,
        fresh_database(target_server, "target", narrow=False) as target_dsn,
        open_sides(source_dsn, target_dsn, column_type) as sides,
    ):
        yield sides


@contextmanager
def open_sides(source_dsn: str, target_dsn: str, column_type: ColumnTypes) -> Iterator[Sides]:
    """Two ships with two tables each, all empty."""
    source_settings = SourceSettings(dsn=SecretStr(source_dsn))
    target_settings = TargetSettings(dsn=SecretStr(target_dsn))
    columns = column_names(CHANNELS)
    plan = SchemaPlan(
        column_type=column_type,
        systems=(System(1, "engine", is_default=True), System(2, "navigation", is_default=False)),
        rules=(),
        channels=tuple(
            PlannedChannel(
                channel, number, columns[channel], "text" if column_type == "text" else TYPES[channel]
            )
            for channel, number in CHANNELS.items()
        ),
        ships=(SHIP, SISTER),
    )
    with (
        closing(connect_source(source_settings, "test verify")) as source,
        closing(connect_target(target_settings, "test verify")) as target,
    ):
        apply_schema(target, target_settings, plan)
        yield Sides(source_settings, target_settings, source, target)
