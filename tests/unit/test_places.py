"""Which wide row each cell belongs to, in the order that every writer locks in."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.property.model.cell import Event
from tests.writer_samples import Key, Sample, narrow_batch
from widetable.cells import Events, read_events
from widetable.layout import UNKNOWN, Layout, Shape, WideTable
from widetable.narrow import Op
from widetable.places import WideCells, has_column, place_cells, slots
from widetable.rule import fold

# Named so that tables sort in another order than ships, and numbers in another than channels.
SHIPS = {"a": "z", "b": "m", "c": "q"}
CHANNELS = {"one": (1, 2), "two": (4, 1), "three": (2, 2)}  # ordinal, table number
PENDING = "pending"


def make_layout() -> Layout:
    """Three ships with two tables each; table 2 has two channels."""
    tables = {
        (ship, number): WideTable("wide", f"{prefix}_{number}", ship, number, number - 1, 1_000 + number, 5)
        for ship, prefix in SHIPS.items()
        for number in (1, 2)
    }
    return Layout(
        version=1,
        typed=False,
        ignore_deletes=False,
        ordinal={channel: ordinal for channel, (ordinal, _) in CHANNELS.items()},
        pending=frozenset([PENDING]),
        table_no=np.array([0, 2, 2, 2, 1], np.int32),
        column_type=("text",) * 5,
        tables=tables,
        shapes=(shape(0, {4: "two"}), shape(1, {1: "one", 2: "three"})),
    )


def shape(number: int, channels: dict[int, str]) -> Shape:
    """Columns of channels by ordinal, the last of them first."""
    columns = (*reversed(channels.values()), "_x", "created_time")
    slot = np.full(5, UNKNOWN)
    for ordinal, channel in channels.items():
        slot[ordinal] = columns.index(channel)
    return Shape(number, columns, slot, columns.index("created_time"), columns.index("_x"))


def events_of(keys: list[Key]) -> Events:
    """A create of each cell."""
    batch = narrow_batch(Sample(key, Event(Op.CREATE, (1, 1), "v")) for key in keys)
    return read_events(batch, batch.column("str_v"))


def random_keys(seed: int, count: int = 300) -> list[Key]:
    """Distinct cells that all have a column."""
    rng = random.Random(seed)
    return list({Key(rng.choice("abc"), rng.randint(-20, 20), rng.choice([*CHANNELS])) for _ in range(count)})


def placed(keys: list[Key]) -> tuple[WideCells, Events]:
    """The cells with their places."""
    events = events_of(keys)
    return place_cells(fold(events), events, make_layout()), events


def address(cells: WideCells, i: int) -> tuple[str, int, int]:
    """Table, moment and ordinal of a cell."""
    places = cells.places
    place = cells.place[i]
    return places.tables[places.table[place]].name, int(places.moment[place]), int(cells.ordinal[i])


def wanted(key: Key) -> tuple[str, int, int]:
    """Where a cell belongs."""
    ordinal, number = CHANNELS[key.channel]
    return f"{SHIPS[key.ship]}_{number}", key.moment_us, ordinal


@pytest.mark.parametrize("seed", range(5))
def test_every_cell_finds_its_table_moment_and_ordinal(seed: int) -> None:
    """Whatever the order of ships, moments and channels in the batch."""
    keys = random_keys(seed)
    cells, events = placed(keys)
    rows = events.rows
    assert len(cells) == len(keys)
    for i, (row, channel) in enumerate(zip(cells.folded.row, cells.folded.channel, strict=True)):
        key = Key(rows.ships[rows.ship[row]], int(rows.moment[row]), events.channels[channel])
        assert address(cells, i) == wanted(key)
    assert {address(cells, i) for i in range(len(cells))} == {wanted(key) for key in keys}


@pytest.mark.parametrize("seed", range(5))
def test_places_ascend_by_table_name_and_moment(seed: int) -> None:
    """The lock order of all writers."""
    places = placed(random_keys(seed))[0].places
    order = [
        (places.tables[table].name, int(m)) for table, m in zip(places.table, places.moment, strict=True)
    ]
    assert order == sorted(set(order))


def test_spans_go_table_by_table() -> None:
    """Of chosen places; tables without any are left out."""
    places = placed(random_keys(3))[0].places
    chosen = np.flatnonzero(np.isin(places.table, [1, 4]))[::2]
    spans = places.spans(chosen)
    assert [table.name for table, _ in spans] == [places.tables[1].name, places.tables[4].name]
    assert np.concatenate([part for _, part in spans]).tolist() == chosen.tolist()
    assert places.spans(np.array([], np.int64)) == []


def test_chosen_places_keep_their_cells_and_no_others() -> None:
    """Renumbered, with the same address each."""
    cells, _ = placed(random_keys(4))
    chosen = np.arange(0, len(cells.places), 3)
    kept = [i for i in range(len(cells)) if cells.place[i] in chosen]
    part = cells.only(chosen)
    assert len(part.places) == len(chosen)
    assert [address(part, i) for i in range(len(part))] == [address(cells, i) for i in kept]
    assert part.folded.fill.tolist() == cells.folded.fill[kept].tolist()


def test_a_cell_without_a_live_column_or_ship_has_no_place() -> None:
    """Unknown or pending channels, unknown ships: overflow takes them."""
    keys = [Key("a", 0, "one"), Key("a", 0, "unknown"), Key("a", 0, PENDING), Key("nobody", 0, "one")]
    events = events_of(keys)
    assert has_column(fold(events), events, make_layout()).tolist() == [True, False, False, False]


def test_slots_are_physical_positions() -> None:
    """Columns stand as the table has them, not as the channels are numbered."""
    cells, _ = placed([Key("a", 0, "one"), Key("a", 0, "three"), Key("b", 0, "two")])
    layout = make_layout()
    for i in range(len(cells)):
        table = cells.places.tables[cells.places.table[cells.place[i]]]
        columns = layout.shapes[table.shape].columns
        name = {ordinal: channel for channel, (ordinal, _) in CHANNELS.items()}[int(cells.ordinal[i])]
        assert columns[slots(cells, np.array([i]), layout.shapes[table.shape])[0]] == name
    assert layout.shapes[1].channel_columns == [("three", 2), ("one", 1)]
