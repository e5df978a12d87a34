"""Ships and channels that nobody has seen: found in overflow, registered as pending, or reported.

In: what overflow holds and the registry does not name. Out: registry rows (and a new ship's empty tables),
each in a layout change of its own; or the reason why not. Nothing here touches a table that has rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Final

from widetable.channel_map import column_name, place
from widetable.ddl import create_missing_tables, create_tables
from widetable.layout_lock import layout_change, raise_version
from widetable.narrow import FORMATS
from widetable.planner import FIXED_COLUMNS, MAX_COLUMNS, ColumnSize, misfits, row_size
from widetable.postgres import Connection
from widetable.registry import Registry, require_registry, write_channels, write_ship, write_systems
from widetable.sampling import TYPE_OF_FORMAT
from widetable.schema_plan import SINGLE, PlannedChannel, System
from widetable.settings import TargetSettings
from widetable.statements import load_statements
from widetable.values import ColumnType
from widetable.wide_table import dropped_columns, recent_row_bytes, refuse_ship

ANOTHER_TABLE: Final = (
    "Nothing is lost. To give it another table: `cdc-consumer schema plan --write map.csv`, write a new table_no"
    " and system beside the channel, `cdc-consumer schema apply --map map.csv`"
)
ONE_TABLE: Final = (
    "Nothing is lost. The single layout has one table only: `cdc-consumer schema apply --layout systems"
    " --drop-tables` makes several, and `backfill run --again` fills them"
)
SQL: Final = load_statements(files("widetable") / "sql" / "newcomers.sql")
NEWCOMERS_PER_STEP: Final = 50
"""A stream that invents channels must not keep writers waiting; the next step goes on."""


@dataclass(slots=True)
class Newcomers:
    """What was registered, what a person has to decide, and what can't be."""

    ships: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Room:
    """What a physical table holds; `seen_bytes` is the average recent row, of the ship with the largest."""

    sizes: list[ColumnSize] = field(default_factory=list)
    dropped: int = 0
    seen_bytes: int = 0

    def refuses(self, channel: PlannedChannel) -> list[str]:
        """Why the table can't take the channel; empty if it can."""
        size = row_size([*self.sizes, channel.size], self.dropped)
        seen_bytes = self.seen_bytes + math.ceil(channel.size.typical_bytes)
        typical, high = max(size.typical_bytes, seen_bytes), max(size.high_bytes, seen_bytes)
        return misfits(replace(size, typical_bytes=typical, high_bytes=high))

    def take(self, channel: PlannedChannel) -> None:
        """Count the channel in."""
        self.sizes.append(channel.size)
        self.seen_bytes += math.ceil(channel.size.typical_bytes) if self.seen_bytes else 0


@dataclass(slots=True)
class Rooms:
    """The physical tables of one table that readers know, by number, and its columns' channels."""

    parts: list[System]
    room: dict[int, Room]
    owner: dict[str, str]

    @property
    def next_part(self) -> System | None:
        """The part that may be added; a table that is whole has rows under the readers' name, and stays so."""
        first = self.parts[0]
        return first.as_part(len(self.parts) + 1) if first.part else None

    def find(self, channel: PlannedChannel) -> PlannedChannel | str:
        """The channel in the first part that has room for it, perhaps a new one; or why it stays in overflow."""
        where = f"channel {channel.channel_id} stays in overflow: table {channel.table_no}"
        if owner := self.owner.get(channel.column_name):
            return f"{where} has column {channel.column_name!r} already, for channel {owner}"
        if len(self.owner) + FIXED_COLUMNS > MAX_COLUMNS:
            return f"{where} is full: readers can be shown {MAX_COLUMNS:,} columns. {self._way_out}"
        reasons: list[str] = []
        for table_no, room in self._rooms():
            if not (reasons := room.refuses(channel)):
                return replace(channel, table_no=table_no)
        return f"{where} is full: {'; '.join(reasons)}. {self._way_out}"

    def take(self, channel: PlannedChannel) -> list[System]:
        """Count the channel in; returns the part that it is the first of, if so."""
        added = [self.next_part] if channel.table_no not in self.room and self.next_part else []
        self.parts += added
        self.owner[channel.column_name] = channel.channel_id
        self.room.setdefault(channel.table_no, Room()).take(channel)
        return added

    def _rooms(self) -> Iterator[tuple[int, Room]]:
        yield from self.room.items()
        if self.next_part:
            yield self.next_part.table_no, Room()

    @property
    def _way_out(self) -> str:
        return ONE_TABLE if self.parts[0].name == SINGLE else ANOTHER_TABLE


def register_newcomers(conn: Connection, target: TargetSettings) -> Newcomers:
    """Register what the policies allow, at most `NEWCOMERS_PER_STEP` of each kind."""
    found = Newcomers()
    registry = require_registry(conn)
    ships, channels = unknown_ships(conn), unknown_channels(conn)
    if registry.new_ships == "manual":
        found.waiting += [f"ship {ship_id}: `schema apply --ship-id {ship_id}` adds it" for ship_id in ships]
    else:
        _register_ships(conn, target, ships, found)
    if registry.new_channels == "manual":
        found.waiting += [f"channel {channel_id}: list it and run `schema apply`" for channel_id in channels]
    else:
        _register_channels(conn, target, channels, found)
    return found


def unknown_ships(conn: Connection) -> list[str]:
    """Ships that overflow holds cells of, and that have no tables."""
    return [ship_id for (ship_id,) in conn.execute(SQL["unknown_ships"])]


def unknown_channels(conn: Connection) -> list[str]:
    """Channels that overflow holds cells of, and that have no column."""
    return [channel_id for (channel_id,) in conn.execute(SQL["unknown_channels"])]


def _register_ships(conn: Connection, target: TargetSettings, ships: Sequence[str], found: Newcomers) -> None:
    for ship_id in ships:
        with layout_change(conn):
            registry = require_registry(conn)
            suffixes = [system.suffix for system in registry.systems]
            if reason := refuse_ship(ship_id, suffixes, registry.owner_of_prefix):
                found.stuck.append(reason)
            elif len(found.ships) < NEWCOMERS_PER_STEP:
                write_ship(conn, ship_id)
                create_tables(conn, target, registry, ship_id)
                raise_version(conn)
                found.ships.append(ship_id)


def _register_channels(
    conn: Connection, target: TargetSettings, channels: Sequence[str], found: Newcomers
) -> None:
    if not channels:
        return
    with layout_change(conn):
        registry = require_registry(conn)
        rooms, added = _rooms(conn, registry), []
        for channel_id in channels:
            channel = _plan_channel(conn, registry, channel_id)
            placed = rooms[channel.table_no].find(channel)
            if isinstance(placed, str):
                found.stuck.append(placed)
            elif len(found.channels) < NEWCOMERS_PER_STEP:
                parts = rooms[channel.table_no].take(placed)
                write_systems(conn, parts)
                write_channels(conn, [placed])
                found.channels.append(channel_id)
                added += parts
        if added:
            _create_parts(conn, target)
        if found.channels:
            raise_version(conn)


def _create_parts(conn: Connection, target: TargetSettings) -> None:
    """The tables of new parts, for every ship; the views above them follow when nobody holds them."""
    registry = require_registry(conn)
    for ship_id in registry.ships:
        create_missing_tables(conn, target, registry, ship_id)


def _plan_channel(conn: Connection, registry: Registry, channel_id: str) -> PlannedChannel:
    """Table by prefix rule, type by the most frequent format of its cells; text if they tell none."""
    column_type: ColumnType = "text"
    if registry.column_type == "typed":
        row = conn.execute(SQL["formats"], [channel_id, list(FORMATS)]).fetchone()
        column_type = TYPE_OF_FORMAT[row[0]] if row else "text"
    table_no = place(channel_id, registry.rules, registry.default_table_no)
    return PlannedChannel(channel_id, table_no, column_name(channel_id), column_type)


def _rooms(conn: Connection, registry: Registry) -> dict[int, Rooms]:
    """By the number that readers know."""
    return {
        number: Rooms(
            registry.parts(number),
            {system.table_no: _room(conn, registry, system.table_no) for system in registry.parts(number)},
            {column.name: column.channel_id for column in registry.reader_columns(number)},
        )
        for number in {system.reader_no for system in registry.systems}
    }


def _room(conn: Connection, registry: Registry, table_no: int) -> Room:
    names = [name for name, (_, no) in registry.tables().items() if no == table_no]
    columns = registry.columns.get(table_no, ())
    return Room(
        sizes=[ColumnSize(column.column_type) for column in columns],
        dropped=dropped_columns(conn, registry.wide_schema, names),
        seen_bytes=max((recent_row_bytes(conn, registry.wide_schema, name) for name in names), default=0),
    )
