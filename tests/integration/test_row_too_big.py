"""Rows too big for a page: the values of that row stand in overflow, and all others in their columns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.property.model.cell import Cell
from tests.writer_samples import (
    NOON_US,
    SHIP,
    SISTER,
    STATE,
    TICK_US,
    Key,
    Sample,
    created,
    deleted,
    updated,
)
from tests.writer_world import WriterWorld, open_world
from widetable.applied import Applied

pytestmark = pytest.mark.postgres

MANY = {f"big/{number:03}": 1 for number in range(400)} | {STATE: 2}
FULL = "x" * 23
"""With its header 24 bytes, which PostgreSQL never moves out of the row: 340 of them fill a page."""


@pytest.fixture
def broad(target_dsn: str) -> Iterator[WriterWorld]:
    """A target with a table of 400 text columns."""
    with open_world(target_dsn, table_of=MANY) as world:
        yield world


def row_of(value: str, moment_us: int, ship: str = SHIP) -> list[Sample]:
    """A value for every channel of one row of the broad table."""
    return [created(value, channel, ship=ship, moment_us=moment_us) for channel in MANY if channel != STATE]


def test_only_the_row_that_is_too_big_goes_to_overflow(broad: WriterWorld) -> None:
    """Found by halving, first, last or in the middle of a batch; its neighbours and other tables are written."""
    moments = [NOON_US + i * TICK_US for i in range(7)]
    big = {moments[0], moments[3], moments[6]}
    batch = [event for m in moments for event in row_of(FULL if m in big else "small", m)]
    batch += [created("a", moment_us=m) for m in moments] + row_of("small", moments[0], SISTER)
    applied = broad.write(batch)
    assert applied == Applied(events=3_207, applied=2_007, overflow=1_200, rows_new=15)
    assert {key.moment_us for key in broad.overflow()} == big
    assert set(broad.reasons().values()) == {"row_too_big"}
    assert len(broad.overflow()) == 3 * 400
    found = broad.cells()
    assert len(found) == 2_007
    assert {cell.value for key, cell in found.items() if key.channel != STATE} == {"small"}


def test_a_merge_that_makes_a_row_too_big_diverts_what_comes_and_keeps_what_is_there(
    broad: WriterWorld,
) -> None:
    """Created values stay out; an updated cell is voided, for its older value must not stay visible."""
    channels = [channel for channel in MANY if channel != STATE]
    first, rest = channels[:300], channels[300:]
    broad.write([created(FULL, channel) for channel in first])
    other = created("fine", channels[0], moment_us=NOON_US + TICK_US)
    updates = [updated("y" * 23, first[0], lsn=9), updated(None, first[2], lsn=10)]
    applied = broad.write([other, *updates, *(created(FULL, channel) for channel in rest)])
    assert applied == Applied(events=103, applied=2, overflow=101, rows_new=1, rows_merged=1, cells_set=2)
    found, over = broad.cells(), broad.overflow()
    assert found[Key(SHIP, NOON_US, first[0])] == Cell(None, (1, 9), "o")
    assert found[Key(SHIP, NOON_US, first[1])] == Cell(FULL)
    assert found[Key(SHIP, NOON_US, first[2])] == Cell(None, (1, 10), "u")
    assert len(found) == 301
    assert over[Key(SHIP, NOON_US, first[0])] == Cell("y" * 23, (1, 9), "u")
    assert {key.channel for key in over} == {first[0], *rest}


def test_a_replay_of_a_row_that_is_too_big_writes_no_tuple(broad: WriterWorld) -> None:
    """It is too big again, and all of it is there already."""
    batch = [*row_of(FULL, NOON_US), updated("z" * 23, "big/000", lsn=7), created("a")]
    broad.write(batch)
    before, texts = broad.tuples_written(), broad.texts()
    broad.write(batch)
    assert broad.texts() == texts
    assert broad.tuples_written() == before
    assert len(broad.overflow()) == 400


def test_an_older_update_does_not_undo_one_that_was_too_big(broad: WriterWorld) -> None:
    """Its version stands in the row, although its value does not."""
    broad.write([*row_of(FULL, NOON_US), updated("new", "big/000", lsn=9)])
    key = Key(SHIP, NOON_US, "big/000")
    assert broad.overflow()[key] == Cell("new", (1, 9), "u")
    broad.write([updated("old", "big/000", lsn=8), deleted("big/000", lsn=7)])
    assert broad.cells()[key] == Cell(None, (1, 9), "o")
    assert broad.overflow()[key] == Cell("new", (1, 9), "u")
    broad.write([deleted("big/000", lsn=10)])
    assert broad.cells()[key] == Cell(None, (1, 10), "d")
    assert key not in broad.overflow()


def test_a_row_so_full_that_no_version_fits_spills_what_comes(broad: WriterWorld) -> None:
    """Not even a tombstone finds room beside the values; overflow remembers it."""
    channels = [channel for channel in MANY if channel != STATE]
    broad.write([created(FULL, channel) for channel in channels[:335]])
    tuned = _fill_up(broad, channels[335])
    applied = broad.write([deleted(channels[399], lsn=5), created("other", moment_us=NOON_US + TICK_US)])
    assert applied == Applied(events=2, applied=1, overflow=1, rows_new=1)
    key = Key(SHIP, NOON_US, channels[399])
    assert broad.overflow() == {key: Cell(None, (1, 5), "d")}
    assert broad.reasons() == {key: "row_too_big"}
    assert len(broad.cells()) == tuned + 1


def _fill_up(world: WriterWorld, first: str) -> int:
    """Add short values until the row takes no other; returns how many cells it has."""
    channels = sorted(channel for channel in MANY if channel != STATE and channel >= first)
    for channel in channels:
        if world.write([created("x", channel)]).overflow:
            break
    world.conn.execute("DELETE FROM overflow_cell")
    return len(world.cells())
