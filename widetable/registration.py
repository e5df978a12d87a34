"""The plan's control rows: layout, systems, prefix rules and channels, registered before any table is made.

Guarantees: what shapes storage is settled by the first apply and refused afterwards; a channel keeps its
table, its column and its ordinal for ever; a plan that is registered already changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from widetable.errors import ConfigurationError
from widetable.layout_lock import raise_version
from widetable.postgres import Connection
from widetable.registry import (
    Registry,
    read_registry,
    require_registry,
    write_channels,
    write_layout,
    write_policies,
    write_rules,
    write_systems,
)
from widetable.schema_plan import PlannedChannel, SchemaPlan
from widetable.splitting import place_in_parts, require_columns, require_fit


@dataclass(slots=True)
class Changes:
    """What an apply changed; it is false if everything was there already.

    `pending` channels and ships may have cells in overflow: the governor brings them to life.
    """

    migrations: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    ships: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    grants: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any((self.migrations, self.settings, self.channels, self.ships, self.tables, self.grants))


def register_plan(conn: Connection, wide_schema: str, plan: SchemaPlan) -> Changes:
    """Register what the plan names and the control schema lacks, in the caller's layout change.

    Args:
        conn: a session that uses the control schema.
        wide_schema: where the wide tables are.
        plan: from `plan_schema`, by the tables that readers know.

    Raises:
        ConfigurationError: the plan contradicts what is settled, two channels of a table share a column, or
            the registered channels and the new ones don't fit their tables.
    """
    changes = Changes()
    registry = read_registry(conn)
    if registry is None:
        write_layout(conn, plan, wide_schema)
        changes.settings.append(f"layout: {plan.column_type} columns, deletes {plan.deletes}")
        registry = require_registry(conn)
    _require_settled(registry, wide_schema, plan)
    placed = place_in_parts(plan, registry)
    known = registry.channel_ids
    require_columns(placed)
    require_fit(placed, known)
    changes.settings += _add_systems(conn, registry, placed) + _update_policies(conn, registry, plan)
    new = [channel for channel in placed.channels if channel.channel_id not in known]
    write_channels(conn, new)
    changes.channels += [channel.channel_id for channel in new]
    changes.notes += _moved(registry, plan) + _assumed(new)
    if changes:
        raise_version(conn)
    return changes


def _require_settled(registry: Registry, wide_schema: str, plan: SchemaPlan) -> None:
    settled = {
        "--column-type": (registry.column_type, plan.column_type),
        "--deletes": (registry.deletes, plan.deletes),
        "CDC_TARGET__WIDE_SCHEMA": (registry.wide_schema, wide_schema),
        "--layout": (_systems(registry, plan), _systems(plan, registry)),
    }
    for option, (there, wanted) in settled.items():
        if there != wanted:
            raise ConfigurationError(
                f"{option} is settled as {there!r} and can't become {wanted!r}: leave it as it is,"
                " or start over with `cdc-consumer schema apply --drop-tables`, which loses all wide rows."
            )


def _systems(of: Registry | SchemaPlan, other: Registry | SchemaPlan) -> str:
    """The tables that both know, as `of` calls them; others may be added."""
    shared = {system.reader_no for system in other.systems}
    named = {system.reader_no: system.name for system in of.systems if system.reader_no in shared}
    return ", ".join(f"{number} {name}" for number, name in sorted(named.items()))


def _add_systems(conn: Connection, registry: Registry, placed: SchemaPlan) -> list[str]:
    known = {system.table_no for system in registry.systems}
    new = [system for system in placed.systems if system.table_no not in known]
    if new and any(system.is_default for system in registry.systems):
        new = [replace(system, is_default=False) for system in new]  # `write_policies` moves it
    write_systems(conn, new)
    return [f"table {system.suffix} {system.name}" for system in new if known or system.part]


def _update_policies(conn: Connection, registry: Registry, plan: SchemaPlan) -> list[str]:
    updated = []
    default_no = registry.default_table_no if registry.systems else plan.default_table_no
    there = (registry.new_channels, registry.new_ships, default_no)
    if there != (plan.new_channels, plan.new_ships, plan.default_table_no):
        write_policies(conn, plan)
        updated.append(f"policies: new channels {plan.new_channels}, new ships {plan.new_ships}")
    if registry.rules != plan.rules:
        write_rules(conn, plan.rules)
        updated.append(f"{len(plan.rules)} prefix rules")
    return updated


def _assumed(new: Sequence[PlannedChannel]) -> list[str]:
    count = sum(channel.assumed for channel in new)
    text = f"{count:,} channels were never seen and are taken for decimals; other values of theirs stay in overflow"
    return [text] if count else []


def _moved(registry: Registry, plan: SchemaPlan) -> list[str]:
    readers = {system.table_no: system.reader_no for system in registry.systems}
    home = {column.channel_id: readers[no] for no, columns in registry.columns.items() for column in columns}
    return [
        f"channel {channel.channel_id} stays in table {home[channel.channel_id]}, though it is in the list of"
        f" table {channel.table_no} now"
        for channel in plan.channels
        if home.get(channel.channel_id, channel.table_no) != channel.table_no
    ]
