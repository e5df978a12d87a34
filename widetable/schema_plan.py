"""The plan of a target: systems, channels with their columns, ships, policies. Pure.

In: the channel lists and a sample of the source. Out: a `SchemaPlan`, which `schema plan` prints and `schema
apply` carries out. Guarantee: a plan that passes `require_fit` makes no table that PostgreSQL would refuse to
create or to fill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from widetable.planner import TYPICAL_TEXT_BYTES, ColumnSize, RowSize, misfits, row_size
from widetable.sampling import Sample
from widetable.values import ColumnType

ColumnTypes = Literal["text", "typed"]
Deletes = Literal["apply", "ignore"]
Policy = Literal["auto", "manual"]
LayoutKind = Literal["systems", "single"]

ASSUMED_TYPE: Final[ColumnType] = "float8"
"""Type of a listed channel that the source never sent, in a typed layout; `schema plan` lists them."""


@dataclass(frozen=True, slots=True)
class System:
    """One wide table per ship: its number, its name, and whether it takes channels that no rule places."""

    table_no: int
    name: str
    is_default: bool


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
    """Everything that `schema apply` creates."""

    column_type: ColumnTypes
    systems: tuple[System, ...]
    rules: tuple[PrefixRule, ...]
    channels: tuple[PlannedChannel, ...]
    ships: tuple[str, ...]
    deletes: Deletes = "apply"
    new_channels: Policy = "auto"
    new_ships: Policy = "auto"

    def sizes(self) -> dict[int, RowSize]:
        """Size of a full row, by table number."""
        return {
            system.table_no: row_size(
                [part.size for part in self.channels if part.table_no == system.table_no]
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
) -> SchemaPlan:
    """Plan the tables for the listed channels and the sampled ships.

    Raises:
        ConfigurationError: two channels of a table would share a column, or there is no default table.
    """
    if layout == "single":
        every = tuple(channel_id for part in lists for channel_id in part.channel_ids)
        lists, default_table_no = (ChannelList(1, "single", every),), 1
    if default_table_no not in {part.table_no for part in lists}:
        numbers = ", ".join(str(part.table_no) for part in lists)
        raise ConfigurationError(
            f"There is no table {default_table_no}: --default-table is one of {numbers}."
        )
    return SchemaPlan(
        column_type=column_type,
        systems=tuple(System(part.table_no, part.name, part.table_no == default_table_no) for part in lists),
        rules=prefix_rules(lists),
        channels=tuple(_channels(lists, sample, column_type)),
        ships=sample.ships,
        deletes=deletes,
        new_channels=new_channels,
        new_ships=new_ships,
    )


def _channels(
    lists: Iterable[ChannelList], sample: Sample, column_type: ColumnTypes
) -> Iterable[PlannedChannel]:
    for part in lists:
        for channel_id, column in column_names(part.channel_ids).items():
            seen = sample.channels.get(channel_id)
            found = seen.column_type if seen else None
            yield PlannedChannel(
                channel_id,
                part.table_no,
                column,
                column_type="text" if column_type == "text" else found or ASSUMED_TYPE,
                text_bytes=seen.text_bytes if seen and found else TYPICAL_TEXT_BYTES,
                assumed=column_type == "typed" and found is None,
            )


def require_fit(sizes: Mapping[int, RowSize], names: Mapping[int, str]) -> None:
    """Refuse tables whose rows would not fit a page.

    Args:
        sizes: by table number.
        names: system names by table number.

    Raises:
        ConfigurationError: with the figures of every such table.
    """
    found = [f"table {no} ({names[no]}): {reason}" for no, size in sizes.items() for reason in misfits(size)]
    if found:
        raise ConfigurationError(
            f"The layout does not fit PostgreSQL: {'; '.join(found)}. Spread the channels over more tables"
            " (--layout systems, shorter lists) or choose the other --column-type. Nothing was created."
        )


def unlisted_channels(plan: SchemaPlan, sample: Sample) -> dict[str, int]:
    """Channels of the sample that no list names, with the table that they would join."""
    listed = {channel.channel_id for channel in plan.channels}
    default = next(system.table_no for system in plan.systems if system.is_default)
    return {
        channel_id: place(channel_id, plan.rules, default) for channel_id in sample.channels.keys() - listed
    }


def conflicting_formats(sample: Sample) -> dict[str, Mapping[str, int]]:
    """Channels that were seen with more than one format, with the number of samples of each."""
    return {seen.channel_id: seen.formats for seen in sample.channels.values() if len(seen.formats) > 1}
