"""The plan of a target: systems, channels with their columns, ships, policies. Pure.

In: the channel lists and a sample of the source. Out: a `SchemaPlan`, which `schema plan` prints and `schema
apply` carries out, both after `splitting` has given each channel a table with room for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from widetable.channel_map import (
    DEFAULT_TABLE_NO,
    ChannelList,
    PrefixRule,
    column_names,
    place,
    prefix_rules,
)
from widetable.errors import ConfigurationError
from widetable.planner import TYPICAL_TEXT_BYTES, ColumnSize, RowSize, row_size
from widetable.sampling import Sample
from widetable.values import ColumnType

ColumnTypes = Literal["text", "typed"]
Deletes = Literal["apply", "ignore"]
Policy = Literal["auto", "manual"]
LayoutKind = Literal["systems", "single"]

SINGLE: Final = "single"
"""Name of the only system of `--layout single`."""
ASSUMED_TYPE: Final[ColumnType] = "float8"
"""Type of a listed channel that the source never sent, in a typed layout; `schema plan` lists them."""


PARTS_STEP: Final = 1000
"""Between the numbers of a table's parts; the tables that readers know have smaller numbers."""


@dataclass(frozen=True, slots=True)
class System:
    """One physical table per ship: a wide table that is whole, or one part of it.

    Attributes:
        table_no: its number.
        name: what the system is called; parts of a table share it.
        is_default: takes channels that no rule places (of a table in parts, the first).
        part: 0 for a table that is whole.
    """

    table_no: int
    name: str
    is_default: bool
    part: int = 0

    @property
    def reader_no(self) -> int:
        """Number of the table that readers know."""
        return self.table_no % PARTS_STEP if self.part else self.table_no

    @property
    def suffix(self) -> str:
        """How the names of the tables end; no ship's id can end a name in the same way."""
        return f"{self.reader_no}p{self.part}" if self.part else str(self.table_no)

    def as_part(self, part: int) -> System:
        """One part of this table, counted from 1."""
        number = self.reader_no + PARTS_STEP * (part - 1)
        return System(number, self.name, self.is_default and part == 1, part)


@dataclass(frozen=True, slots=True)
class PlannedChannel:
    """A channel with its column; `text_bytes` is the typical length of its values as text."""

    channel_id: str
    table_no: int
    column_name: str
    column_type: ColumnType
    text_bytes: float = TYPICAL_TEXT_BYTES
    assumed: bool = False  # no sample: the type is a guess

    @property
    def size(self) -> ColumnSize:
        """What the channel takes of a row."""
        return ColumnSize(self.column_type, self.text_bytes)


@dataclass(frozen=True, slots=True)
class SchemaPlan:
    """Everything that `schema apply` creates.

    `spread` says, by number of the table that readers know, what the 99.9th percentile of its rows takes beyond
    their typical bytes, as a part of them. The tables `whole` must not be split: they are there already.
    """

    column_type: ColumnTypes
    systems: tuple[System, ...]
    rules: tuple[PrefixRule, ...]
    channels: tuple[PlannedChannel, ...]
    ships: tuple[str, ...]
    deletes: Deletes = "apply"
    new_channels: Policy = "auto"
    new_ships: Policy = "auto"
    spread: Mapping[int, float] = field(default_factory=dict)
    whole: frozenset[int] = frozenset()

    @property
    def default_table_no(self) -> int:
        """The table, as readers know it, of channels that no rule places."""
        return next(system.reader_no for system in self.systems if system.is_default)

    @property
    def is_single(self) -> bool:
        """All channels are to share one table, which must not be split."""
        return [system.name for system in self.systems] == [SINGLE]

    def sizes(self) -> dict[int, RowSize]:
        """Size of a full row, by table number."""
        return {
            system.table_no: row_size(
                [part.size for part in self.channels if part.table_no == system.table_no],
                spread=self.spread.get(system.reader_no, 0.0),
            )
            for system in self.systems
        }


def plan_schema(
    lists: Sequence[ChannelList],
    sample: Sample,
    *,
    column_type: ColumnTypes = "text",
    layout: LayoutKind = "systems",
    default_table_no: int = DEFAULT_TABLE_NO,
    deletes: Deletes = "apply",
    new_channels: Policy = "auto",
    new_ships: Policy = "auto",
    columns: Mapping[str, str] = MappingProxyType({}),
    types: Mapping[str, ColumnType] = MappingProxyType({}),
    whole: Iterable[int] = (),
) -> SchemaPlan:
    """Plan the tables for the listed channels and the sampled ships.

    Args:
        lists: the channels by table.
        sample: what the source contains.
        column_type: text columns, or columns of each channel's type.
        layout: a table per list, or one for all.
        default_table_no: takes channels that no list and no rule names.
        deletes: what a DELETE at the source does.
        new_channels: who adds channels that nobody has seen.
        new_ships: likewise for ships.
        columns: names of columns that are settled otherwise, by channel.
        types: types of columns that are settled otherwise, by channel.
        whole: numbers of tables that must not be split.

    Raises:
        ConfigurationError: two channels of a table would share a column, or there is no default table.
    """
    lists, default_table_no = _tables(lists, layout, default_table_no)
    return SchemaPlan(
        column_type=column_type,
        systems=tuple(System(part.table_no, part.name, part.table_no == default_table_no) for part in lists),
        rules=prefix_rules(lists),
        channels=tuple(_channels(lists, sample, column_type, columns, types)),
        ships=sample.ships,
        deletes=deletes,
        new_channels=new_channels,
        new_ships=new_ships,
        spread=_spread(lists, sample),
        whole=frozenset(whole),
    )


def _tables(
    lists: Sequence[ChannelList], layout: LayoutKind, default_table_no: int
) -> tuple[Sequence[ChannelList], int]:
    """The lists as tables, and which of them is the default."""
    if layout == "single":
        every = tuple(channel_id for part in lists for channel_id in part.channel_ids)
        return (ChannelList(1, SINGLE, every),), 1
    numbers = [part.table_no for part in lists]
    if default_table_no not in numbers:
        raise ConfigurationError(
            f"There is no table {default_table_no}: --default-table is one of {', '.join(map(str, numbers))}."
        )
    return lists, default_table_no


def _channels(
    lists: Iterable[ChannelList],
    sample: Sample,
    column_type: ColumnTypes,
    columns: Mapping[str, str],
    types: Mapping[str, ColumnType],
) -> Iterable[PlannedChannel]:
    for part in lists:
        for channel_id, column in column_names(part.channel_ids, columns).items():
            seen = sample.channels.get(channel_id)
            found = types.get(channel_id) or (seen.column_type if seen else None)
            yield PlannedChannel(
                channel_id,
                part.table_no,
                column,
                column_type="text" if column_type == "text" else found or ASSUMED_TYPE,
                text_bytes=seen.text_bytes if seen and seen.formats else TYPICAL_TEXT_BYTES,
                assumed=column_type == "typed" and found is None,
            )


def _spread(lists: Iterable[ChannelList], sample: Sample) -> dict[int, float]:
    """What high rows take beyond the typical bytes of their table's channels, as a part of these."""
    spread = {}
    for part in lists:
        seen = [sample.channels[channel] for channel in part.channel_ids if channel in sample.channels]
        typical = sum(ColumnSize("text", found.text_bytes).typical_bytes for found in seen if found.formats)
        spread[part.table_no] = (
            max(sample.excess_bytes.get(part.table_no, 0.0) / typical, 0.0) if typical else 0.0
        )
    return spread


def unlisted_channels(plan: SchemaPlan, sample: Sample) -> dict[str, int]:
    """Channels of the sample that no list names, with the table that they would join."""
    listed = {channel.channel_id for channel in plan.channels}
    return {
        channel_id: place(channel_id, plan.rules, plan.default_table_no)
        for channel_id in sample.channels.keys() - listed
    }


def conflicting_formats(sample: Sample) -> dict[str, Mapping[str, int]]:
    """Channels that were seen with more than one format, with the number of samples of each."""
    return {seen.channel_id: seen.formats for seen in sample.channels.values() if len(seen.formats) > 1}
