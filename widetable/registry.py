"""The control rows that shape the wide tables: layout, systems, prefix rules, channels, ships.

Read as one `Registry`; written in transactions that hold the exclusive layout lock (`layout_lock`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from widetable.channel_map import PrefixRule
from widetable.errors import ConfigurationError
from widetable.postgres import Connection, fetch_one
from widetable.schema_plan import ColumnTypes, Deletes, PlannedChannel, Policy, SchemaPlan, System
from widetable.statements import load_statements
from widetable.wide_table import Column, table_name, table_prefix

SQL: Final = load_statements(files("widetable") / "sql" / "registry.sql")


@dataclass(frozen=True, slots=True)
class Registry:
    """What the target's control schema says about its wide tables."""

    version: int
    column_type: ColumnTypes
    wide_schema: str
    deletes: Deletes
    new_channels: Policy
    new_ships: Policy
    systems: tuple[System, ...]
    rules: tuple[PrefixRule, ...]
    columns: Mapping[int, Sequence[Column]]  # by physical table number, in order of their ordinals
    ships: Mapping[str, bool]  # ship id -> whether it is pending

    @property
    def channel_ids(self) -> set[str]:
        """Every channel that has a place."""
        return {column.channel_id for columns in self.columns.values() for column in columns}

    @property
    def default_table_no(self) -> int:
        """The table, as readers know it, of channels that no rule places."""
        return next(
            (system.reader_no for system in self.systems if system.is_default), self.systems[0].reader_no
        )

    def parts(self, reader_no: int) -> list[System]:
        """The physical tables of a table that readers know; one that is whole is its own only part."""
        return [system for system in self.systems if system.reader_no == reader_no]

    def reader_columns(self, reader_no: int) -> list[Column]:
        """The columns of a table as readers see it, in order of their ordinals."""
        parts = [self.columns.get(system.table_no, ()) for system in self.parts(reader_no)]
        return sorted((column for part in parts for column in part), key=lambda column: column.ordinal)

    @property
    def owner_of_prefix(self) -> dict[str, str]:
        """The ship that owns each table prefix."""
        return {table_prefix(ship_id): ship_id for ship_id in self.ships}

    def tables(self, ship_ids: Iterable[str] | None = None) -> dict[str, tuple[str, int]]:
        """Physical table -> (ship, table number), of these ships or of all; systems without channels have none."""
        ships = self.ships if ship_ids is None else list(ship_ids)
        filled = [system for system in self.systems if system.table_no in self.columns]
        pairs = [
            (table_name(ship, system.suffix), (ship, system.table_no)) for ship in ships for system in filled
        ]
        return dict(sorted(pairs))

    def views(self, ship_ids: Iterable[str] | None = None) -> dict[str, tuple[str, int]]:
        """View -> (ship, number that readers know), for the tables in parts of these ships or of all."""
        ships = self.ships if ship_ids is None else list(ship_ids)
        split = sorted({system.reader_no for system in self.systems if system.part})
        pairs = [(table_name(ship, str(number)), (ship, number)) for ship in ships for number in split]
        return dict(sorted(pairs))

    def reader_names(self, ship_ids: Iterable[str] | None = None) -> list[str]:
        """What readers read: the tables that are whole, and the views on the others."""
        parts = {system.table_no for system in self.systems if system.part}
        whole = [name for name, (_, number) in self.tables(ship_ids).items() if number not in parts]
        return sorted([*whole, *self.views(ship_ids)])


def read_registry(conn: Connection) -> Registry | None:
    """The registry, or None before the first `schema apply`."""
    row = conn.execute(SQL["layout"]).fetchone()
    if row is None:
        return None
    version, column_type, wide_schema, deletes, new_channels, new_ships = row
    return Registry(
        version=version,
        column_type=column_type,
        wide_schema=wide_schema,
        deletes=deletes,
        new_channels=new_channels,
        new_ships=new_ships,
        systems=tuple(System(*found) for found in conn.execute(SQL["systems"])),
        rules=tuple(PrefixRule(*found) for found in conn.execute(SQL["rules"])),
        columns=_columns(conn),
        ships=dict(conn.execute(SQL["ships"]).fetchall()),
    )


def require_registry(conn: Connection) -> Registry:
    """The registry.

    Raises:
        ConfigurationError: there is none yet.
    """
    registry = read_registry(conn)
    if registry is None:
        raise ConfigurationError("The target has no wide tables yet: run `cdc-consumer schema apply` first.")
    return registry


def _columns(conn: Connection) -> dict[int, list[Column]]:
    columns: dict[int, list[Column]] = {}
    for table_no, *column in conn.execute(SQL["channels"]):
        columns.setdefault(table_no, []).append(Column(*column))
    return columns


def write_layout(conn: Connection, plan: SchemaPlan, wide_schema: str) -> None:
    """Settle the layout, once."""
    choices = [plan.column_type, wide_schema, plan.deletes, plan.new_channels, plan.new_ships]
    conn.execute(SQL["insert_layout"], choices)


def write_systems(conn: Connection, systems: Iterable[System]) -> None:
    """Register tables, or parts of them; a ship's are created by `ddl.create_tables`."""
    for system in systems:
        row = [system.table_no, system.name, system.is_default, system.part]
        conn.execute(SQL["insert_system"], row)


def write_policies(conn: Connection, plan: SchemaPlan) -> None:
    """Change what may change later: the policies, and which table takes channels that no rule places."""
    conn.execute(SQL["update_policies"], [plan.new_channels, plan.new_ships])
    conn.execute(SQL["unset_default_system"])
    # The first part of a table has the table's number.
    conn.execute(SQL["set_default_system"], [plan.default_table_no])


def write_rules(conn: Connection, rules: Sequence[PrefixRule]) -> None:
    """Put these prefix rules into the place of all others."""
    conn.execute(SQL["delete_rules"])
    with conn.cursor() as cursor:
        numbered = [(position, rule.prefix, rule.table_no) for position, rule in enumerate(rules, start=1)]
        cursor.executemany(SQL["insert_rule"], numbered)


def write_channels(conn: Connection, channels: Iterable[PlannedChannel]) -> None:
    """Register channels, in this order; they are pending if there are ships already."""
    with conn.cursor() as cursor:
        rows = [(part.channel_id, part.table_no, part.column_name, part.column_type) for part in channels]
        cursor.executemany(SQL["insert_channel"], rows)


def write_ship(conn: Connection, ship_id: str) -> bool:
    """Register a ship; returns whether it is pending, because overflow holds cells of it."""
    return bool(fetch_one(conn, SQL["insert_ship"], ship_id, table_prefix(ship_id))[0])


def set_channels_live(conn: Connection, channel_ids: Sequence[str]) -> None:
    """From now on writers put these channels' cells into their columns."""
    conn.execute(SQL["set_channels_live"], [list(channel_ids)])


def set_ship_live(conn: Connection, ship_id: str) -> None:
    """From now on writers put this ship's cells into its tables."""
    conn.execute(SQL["set_ship_live"], [ship_id])
