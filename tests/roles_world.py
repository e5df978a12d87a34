"""A pipeline whose programs have the four roles of `deploy/roles.sql`, and no others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from devstack.product import Product
from tests.roles import Roles

FIRST_MOMENT = "2026-01-01 00:00:00"
INSERT = """
INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, str_v, value_format)
VALUES (%s, %s, timestamp '2026-01-01' + %s * interval '15 s', %s, 'String')
"""


@dataclass(frozen=True, slots=True)
class World:
    """Databases as their administrator sees them, and the programs with their roles."""

    source: str
    target: str
    roles: Roles
    consumer: Product
    backfill: Product
    folder: Path

    def succeed(self, *command: str) -> str:
        """Run a command with its own role; no password may stand in what it prints."""
        product = self.backfill if command[0] == "backfill" else self.consumer
        done = product.run(*command, quiet=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{said}"
        assert not [password for password in self.roles.passwords if password in said]
        return said

    def insert(self, ships: tuple[str, ...], channels: tuple[str, ...], moment: int) -> None:
        """A sample of each channel of each ship, its value an id."""
        with psycopg.connect(self.source, autocommit=True) as conn:
            rows = [(ship, channel, moment, channel) for ship in ships for channel in channels]
            conn.cursor().executemany(INSERT, rows)

    def spoil_cell(self, ship: int) -> None:
        """Give the ship's first cell another value, which no role of the product does by itself."""
        self._change(ship, """UPDATE {} SET "a/b" = 'wrong' WHERE created_time = %s""")

    def lose_row(self, ship: int) -> None:
        """Delete the row of the ship's first cell."""
        self._change(ship, "DELETE FROM {} WHERE created_time = %s")

    def _change(self, ship: int, statement: LiteralString) -> None:
        with psycopg.connect(self.target, autocommit=True) as conn:
            assert conn.execute(sql.SQL(statement).format(wide(ship)), [FIRST_MOMENT]).rowcount == 1

    def first_cell(self, ship: int) -> str | None:
        """The ship's first cell at the target; None where it, or its row, is not there."""
        query = "SELECT to_jsonb(wide) ->> 'a/b' FROM {} wide WHERE created_time = %s"
        with psycopg.connect(self.target) as conn:
            row = conn.execute(sql.SQL(query).format(wide(ship)), [FIRST_MOMENT]).fetchone()
        return row[0] if row else None

    def as_sent(self) -> bool:
        """Whether the first cells of both ships are what the source has."""
        return self.first_cell(1) == self.first_cell(2) == "a/b"


def wide(ship: int) -> sql.Identifier:
    """The ship's table of channels that no list names."""
    return sql.Identifier("tenant", f"tbl_data_timeseries_ship{ship}_2")


def number(dsn: str, query: str) -> int:
    """A single number, with the control schema on the path."""
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=cdc,tenant") as conn:
        (row,) = conn.execute(query.encode()).fetchall()
    return int(row[0])
