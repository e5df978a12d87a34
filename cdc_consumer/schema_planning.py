"""What `schema plan` and `schema apply` share: from options, target and source to a plan.

In: the options of a command line. Out: a `Proposal`: the plan by the tables that readers know, and what it rests
on. Nothing is changed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cdc_consumer.settings import Settings
from widetable.adopt import FoundTable, adopted_map, find_tables
from widetable.channel_map import DEFAULT_TABLE_NO, ChannelList, read_channel_lists
from widetable.control import check_control, has_control
from widetable.errors import ConfigurationError, UnreachableError
from widetable.map_file import MapFile, read_map
from widetable.newcomers import unknown_channels, unknown_ships
from widetable.postgres import Connection, connect_source, connect_target
from widetable.registry import Registry, read_registry
from widetable.sampling import Sample, Window, source_ships, take_sample
from widetable.schema_plan import SINGLE, SchemaPlan, plan_schema
from widetable.splitting import place_in_parts
from widetable.wide_table import table_name

APPLICATION: Final = "cdc-consumer schema"


@dataclass(frozen=True, slots=True)
class Present:
    """What the target has: nothing before the first apply.

    `waiting_ships` and `waiting_channels` have cells in overflow and no place; `foreign` tables have the names of
    wide tables, and are not ours.
    """

    registry: Registry | None = None
    waiting_ships: tuple[str, ...] = ()
    waiting_channels: tuple[str, ...] = ()
    foreign: tuple[FoundTable, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """What a command line says about the shape of the tables."""

    folder: Path | None
    map_path: Path | None
    ships: Sequence[str]
    window: Window
    adopt: bool = False
    starts_anew: bool = False  # what is registered is to be dropped
    choices: Mapping[str, Any] = field(default_factory=dict)  # of `plan_schema`; None is "not said"

    def __post_init__(self) -> None:
        if self.folder and self.map_path:
            raise ConfigurationError(
                "--channels and --map both say which channels there are: give one of them."
            )


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan by the tables that readers know, and what it rests on."""

    plan: SchemaPlan
    sample: Sample
    present: Present

    @property
    def adopted(self) -> frozenset[str]:
        """Names of the tables that the plan takes over."""
        return frozenset(table.name for table in self.present.foreign if self.plan.whole)

    @property
    def placed(self) -> SchemaPlan:
        """The plan by physical tables, with all that is registered."""
        return place_in_parts(self.plan, self.present.registry)


def look_at_target(settings: Settings, options: Options) -> Present:
    """What the target has, on a session that only reads.

    A target that does not answer yet is no reason against a plan.

    Raises:
        ConfigurationError: its control schema is of another version.
    """
    try:
        with closing(connect_target(settings.target, APPLICATION)) as conn:
            if not has_control(conn, settings.target.control_schema):
                return Present(foreign=_foreign_tables(conn, settings, options, None))
            check_control(conn, settings.target.control_schema)
            return read_present(conn, settings, options)
    except UnreachableError as error:
        return Present(notes=(f"planned as for an empty target: {error}",))


def read_present(conn: Connection, settings: Settings, options: Options) -> Present:
    """What the target has, read on a session that uses the control schema."""
    registry = read_registry(conn)
    foreign = _foreign_tables(conn, settings, options, registry)
    return Present(registry, tuple(unknown_ships(conn)), tuple(unknown_channels(conn)), foreign)


def _foreign_tables(
    conn: Connection, settings: Settings, options: Options, registry: Registry | None
) -> tuple[FoundTable, ...]:
    """Tables with the names that wide tables of ships without any would have."""
    with closing(connect_source(settings.source, APPLICATION)) as source:
        ships = set(options.ships or source_ships(source, settings.source))
    ships -= registry.ships.keys() if registry else set()
    numbers = {part.table_no for part in known_channels(options, registry).lists}
    names = {table_name(ship_id, str(number)): number for ship_id in ships for number in numbers}
    return find_tables(conn, settings.target.wide_schema, names)


def propose(settings: Settings, options: Options, present: Present) -> Proposal:
    """Look at the source, and plan.

    Args:
        settings: where the source is.
        options: what the person wants.
        present: what the target has.

    Raises:
        ConfigurationError: lists, map, source or choices are wrong, or tables can't be adopted; the message says
            which.
    """
    channel_map = known_channels(options, present.registry)
    adopting = present.foreign if options.adopt else ()
    others = [column.name for table in adopting for column in table.channel_columns]
    sample = look_at_source(settings, options, channel_map, [*present.waiting_channels, *others])
    channel_map = adopted_map(adopting, channel_map, sample.channels.keys())
    plan = plan_schema(
        channel_map.lists,
        sample,
        columns=channel_map.columns,
        types=channel_map.types,
        whole={table.table_no for table in adopting},
        **_choices(options, present.registry, channel_map),
    )
    return Proposal(plan, sample, present)


def known_channels(options: Options, registry: Registry | None) -> MapFile:
    """The channels that are wanted, and those that are registered: what a file says, else what is registered.

    Raises:
        ConfigurationError: a list or map is wrong.
    """
    if options.map_path:
        given = read_map(options.map_path)
    elif options.folder or registry is None or (options.starts_anew and options.choices.get("layout")):
        given = MapFile(read_channel_lists(options.folder))
    else:
        given = MapFile(())
    if registry is None or (options.starts_anew and given.lists):
        return given
    completed = _completed(given, registry)
    return replace(completed, types={}) if options.starts_anew else completed


def _completed(given: MapFile, registry: Registry) -> MapFile:
    """With the registered channels, at the head of their table's list, as they are registered."""
    listed = {channel_id for part in given.lists for channel_id in part.channel_ids}
    names = {part.table_no: part.name for part in given.lists}
    for system in registry.systems:
        names.setdefault(system.reader_no, system.name)
    settled = {number: registry.reader_columns(number) for number in names}
    columns = {column.channel_id: column for part in settled.values() for column in part}
    given_ids = {part.table_no: part.channel_ids for part in given.lists}
    lists = tuple(
        ChannelList(number, name, (*_unlisted(settled[number], listed), *given_ids.get(number, ())))
        for number, name in sorted(names.items())
    )
    return MapFile(
        lists,
        {**{channel: column.name for channel, column in columns.items()}, **given.columns},
        {**{channel: column.column_type for channel, column in columns.items()}, **given.types},
    )


def _unlisted(columns: Sequence[Any], listed: set[str]) -> list[str]:
    return [column.channel_id for column in columns if column.channel_id not in listed]


def look_at_source(
    settings: Settings,
    options: Options,
    channel_map: MapFile,
    others: Iterable[str],
) -> Sample:
    """Sample the source."""
    single = options.choices.get("layout") == SINGLE
    tables = {
        channel_id: 1 if single else part.table_no
        for part in channel_map.lists
        for channel_id in part.channel_ids
    }
    with closing(connect_source(settings.source, APPLICATION)) as conn:
        return take_sample(
            conn, settings.source, window=options.window, ships=options.ships, tables=tables, others=others
        )


def _choices(options: Options, settled: Registry | None, channel_map: MapFile) -> dict[str, Any]:
    """What was asked for, else what is settled, else what the map implies, else nothing: the plan has defaults."""
    given = dict(options.choices)
    if settled is not None:
        there = {
            "column_type": settled.column_type,
            "layout": SINGLE if [system.name for system in settled.systems] == [SINGLE] else "systems",
            "default_table_no": settled.default_table_no,
            "deletes": settled.deletes,
            "new_channels": settled.new_channels,
            "new_ships": settled.new_ships,
        }
        given = {name: there[name] if value is None else value for name, value in given.items()}
    choices = {name: value for name, value in given.items() if value is not None}
    if settled is None:
        choices = _implied(choices, channel_map)
    _require_text(options, choices, channel_map)
    return choices


def _implied(choices: dict[str, Any], channel_map: MapFile) -> dict[str, Any]:
    """Typed columns ask for a typed layout, a map without the default table for another one."""
    typed = set(channel_map.types.values()) - {"text"}
    numbers = [part.table_no for part in channel_map.lists]
    implied: dict[str, Any] = {"column_type": "typed"} if typed else {}
    if DEFAULT_TABLE_NO not in numbers:
        implied["default_table_no"] = numbers[0]
    return {**implied, **choices}


def _require_text(options: Options, choices: Mapping[str, Any], channel_map: MapFile) -> None:
    typed = sorted(channel for channel, found in channel_map.types.items() if found != "text")
    if (options.map_path or options.adopt) and typed and choices.get("column_type", "text") == "text":
        raise ConfigurationError(
            f"{len(typed)} channels have a typed column, such as {typed[0]!r}, and the layout has text columns:"
            " leave column_type empty in the map, alter the columns of adopted tables to text, or choose"
            " --column-type typed at the first apply."
        )
