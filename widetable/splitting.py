"""Which physical table each channel gets: a table that can't hold its rows is split into parts. Pure.

In: a plan by the tables that readers know, and what is registered already. Out: the same plan by physical tables,
completed by what is registered. Guarantees: a channel that has a place keeps it; a plan that passes `require_fit`
makes no table that PostgreSQL would refuse to create or to fill.

The parts of a table are tables of their own to every writer; only readers are shown one (`part_views`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from widetable.channel_map import column_names
from widetable.errors import ConfigurationError
from widetable.planner import MAX_COLUMNS, TYPICAL_TEXT_BYTES, misfits, row_size
from widetable.registry import Registry
from widetable.schema_plan import PlannedChannel, SchemaPlan, System


@dataclass(frozen=True, slots=True)
class Placed:
    """The physical tables of one table that readers know, and the channels in them."""

    systems: tuple[System, ...]
    channels: tuple[PlannedChannel, ...]


def place_in_parts(plan: SchemaPlan, registry: Registry | None) -> SchemaPlan:
    """Give every channel of the plan a physical table.

    Args:
        plan: from `plan_schema`; its tables are those that readers know.
        registry: what the target has, None before the first apply.

    Returns:
        The plan with the registered channels that it does not name, and with parts where a table needs them.
    """
    settled = _settled_channels(plan, registry)
    there = {channel.channel_id for channel in settled}
    new = [channel for channel in plan.channels if channel.channel_id not in there]
    placed = [
        _place(
            plan,
            systems,
            [channel for channel in settled if channel.table_no in {part.table_no for part in systems}],
            [channel for channel in new if channel.table_no == systems[0].reader_no],
        )
        for systems in _tables(plan, registry)
    ]
    return replace(
        plan,
        systems=tuple(system for table in placed for system in table.systems),
        channels=tuple(channel for table in placed for channel in table.channels),
    )


def _settled_channels(plan: SchemaPlan, registry: Registry | None) -> list[PlannedChannel]:
    """The registered channels as they are; the plan knows how long their values are."""
    if registry is None:
        return []
    text_bytes = {channel.channel_id: channel.text_bytes for channel in plan.channels}
    return [
        PlannedChannel(
            column.channel_id,
            table_no,
            column.name,
            column.column_type,
            text_bytes.get(column.channel_id, TYPICAL_TEXT_BYTES),
        )
        for table_no, columns in registry.columns.items()
        for column in columns
    ]


def _tables(plan: SchemaPlan, registry: Registry | None) -> Iterator[list[System]]:
    """Per table that readers know: its physical tables, as registered, else as one; its default as planned."""
    registered = registry.systems if registry else ()
    default_no = plan.default_table_no
    known = [*registered, *(system for system in plan.systems if system.table_no not in _readers(registered))]
    for number in sorted(_readers(known)):
        parts = [system for system in known if system.reader_no == number]
        yield [
            replace(part, is_default=number == default_no and part.part <= 1)
            for part in sorted(parts, key=lambda part: part.part)
        ]


def _readers(systems: Iterable[System]) -> set[int]:
    return {system.reader_no for system in systems}


def _place(
    plan: SchemaPlan, systems: list[System], settled: list[PlannedChannel], new: list[PlannedChannel]
) -> Placed:
    spread = plan.spread.get(systems[0].reader_no, 0.0)
    if systems[0].part:
        return _into_parts(systems, settled, new, spread)
    is_whole = bool(settled) or plan.is_single or systems[0].reader_no in plan.whole
    if is_whole or fits(new, spread):
        return Placed(tuple(systems), (*settled, *new))  # `require_fit` judges
    chunks = _chunks(new, spread)
    parts = [systems[0].as_part(number) for number in range(1, len(chunks) + 1)]
    return Placed(tuple(parts), tuple(_moved(chunks, parts)))


def fits(channels: Sequence[PlannedChannel], spread: float, dropped: int = 0) -> bool:
    """Whether one physical table can hold the rows of these channels."""
    return not misfits(row_size([channel.size for channel in channels], dropped, spread))


def _moved(chunks: Iterable[Sequence[PlannedChannel]], parts: Iterable[System]) -> Iterator[PlannedChannel]:
    for chunk, part in zip(chunks, parts, strict=True):
        yield from (replace(channel, table_no=part.table_no) for channel in chunk)


def _chunks(channels: Sequence[PlannedChannel], spread: float) -> list[list[PlannedChannel]]:
    """The fewest runs of neighbours that all fit, about equally large: equipment stays together."""
    for count in range(2, len(channels)):
        chunks = _equal_runs(channels, count)
        if all(fits(chunk, spread) for chunk in chunks):
            return chunks
    return [[channel] for channel in channels]


def _equal_runs(channels: Sequence[PlannedChannel], count: int) -> list[list[PlannedChannel]]:
    total = sum(channel.size.typical_bytes for channel in channels)
    runs: list[list[PlannedChannel]] = [[] for _ in range(count)]
    position = 0.0
    for channel in channels:
        runs[min(int(position / total * count), count - 1)].append(channel)
        position += channel.size.typical_bytes
    return [run for run in runs if run]


def _into_parts(
    systems: list[System], settled: list[PlannedChannel], new: list[PlannedChannel], spread: float
) -> Placed:
    """Into the first part with room, each; a part is added where none has any."""
    held = {part.table_no: [c for c in settled if c.table_no == part.table_no] for part in systems}
    for channel in new:
        room = (no for no, there in held.items() if fits([*there, channel], spread))
        if (table_no := next(room, None)) is None:
            systems = [*systems, systems[0].as_part(len(systems) + 1)]
            table_no = systems[-1].table_no
            held[table_no] = []
        held[table_no].append(replace(channel, table_no=table_no))
    return Placed(tuple(systems), tuple(channel for there in held.values() for channel in there))


# -- what stands against a plan -----------------------------------------------------------------------------


def fit_problems(plan: SchemaPlan, there: Collection[str] = ()) -> dict[int, list[str]]:
    """Why tables must not be created, or get channels, by physical table number; tables that may are left out.

    Args:
        plan: from `place_in_parts`.
        there: channels that are registered. A table that gets no others is what it is: whatever it should hold, it
            must not stand in the way of a table with room.
    """
    found = {
        number: misfits(size) for number, size in plan.sizes().items() if number in _growing(plan, there)
    }
    for system in plan.systems:
        channels = [channel for channel in plan.channels if _reader(plan, channel) == system.reader_no]
        if system.part == 1 and len(channels) + 1 > MAX_COLUMNS:
            text = f"{len(channels) + 1:,} columns in its view; readers can be shown {MAX_COLUMNS:,}"
            found.setdefault(system.table_no, []).append(text)
    return {number: texts for number, texts in found.items() if texts}


def _growing(plan: SchemaPlan, there: Collection[str]) -> set[int]:
    return {channel.table_no for channel in plan.channels if channel.channel_id not in there}


def _reader(plan: SchemaPlan, channel: PlannedChannel) -> int:
    return next(system.reader_no for system in plan.systems if system.table_no == channel.table_no)


def require_fit(plan: SchemaPlan, there: Collection[str] = ()) -> None:
    """Refuse tables whose rows would not fit a page, if they have channels that are not `there` yet.

    Raises:
        ConfigurationError: with the figures of every such table.
    """
    names = {system.table_no: f"{system.suffix} ({system.name})" for system in plan.systems}
    found = [
        f"table {names[no]}: {text}" for no, texts in fit_problems(plan, there).items() for text in texts
    ]
    if found:
        raise ConfigurationError(
            f"The layout does not fit PostgreSQL: {'; '.join(found)}. Spread the channels over more tables"
            " (--layout systems, shorter lists, another number in a channel map) or choose the other"
            " --column-type. Nothing was created."
        )


def require_columns(plan: SchemaPlan) -> None:
    """Refuse two channels under one column, in all parts of a table together: a view shows them side by side.

    Raises:
        ConfigurationError: the message names both.
    """
    for number in sorted(_readers(plan.systems)):
        own = [channel for channel in plan.channels if _reader(plan, channel) == number]
        column_names(
            [channel.channel_id for channel in own],
            {channel.channel_id: channel.column_name for channel in own},
        )
