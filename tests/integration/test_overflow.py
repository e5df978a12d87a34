"""Overflow on PostgreSQL: cells without a column, values that don't fit, rows too big for a page."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from devstack.databases import Server
from tests.property.model.cell import Cell, Event
from tests.writer_world import (
    COUNT,
    HISTORY,
    LOAD,
    MOMENT_US,
    NOON_US,
    ON,
    SHIP,
    SISTER,
    SPEED,
    STATE,
    TICK_US,
    UNLISTED,
    Key,
    Sample,
    Worlds,
    WriterWorld,
    copied,
    created,
    deleted,
    open_world,
    open_worlds,
    updated,
    wait_for_lock,
)
from widetable.applied import Applied
from widetable.layout_lock import layout_change, raise_version
from widetable.narrow import Op
from widetable.schema_plan import Deletes

pytestmark = pytest.mark.postgres

UNLISTED_KEY = Key(SHIP, NOON_US, UNLISTED)


@pytest.fixture(scope="module")
def worlds(target_server: Server) -> Iterator[Worlds]:
    """Empty targets, by column type and deletes choice."""
    with open_worlds(target_server) as worlds:
        yield worlds


@pytest.fixture
def world(worlds: Worlds) -> WriterWorld:
    """An empty target of text columns."""
    return worlds("text", "apply")


@pytest.fixture
def typed(worlds: Worlds) -> WriterWorld:
    """An empty target of typed columns."""
    return worlds("typed", "apply")


@pytest.fixture
def own(target_dsn: str) -> Iterator[WriterWorld]:
    """A target that a test may alter."""
    with open_world(target_dsn) as world:
        yield world


# -- cells without a column ---------------------------------------------------------------------------------------


def test_what_has_no_column_is_kept_with_the_reason_and_costs_the_others_nothing(own: WriterWorld) -> None:
    """A channel that nobody knows, one that is not drained yet, a ship without tables."""
    own.conn.execute("UPDATE channel SET state = 'pending' WHERE channel_id = %s", [SPEED])
    own.writer.load()
    applied = own.write(
        [
            created("a"),
            created("b", UNLISTED),
            created("c", SPEED),
            created("d", ship="nobody"),
            created("1", LOAD),
        ]
    )
    assert applied == Applied(events=5, applied=2, overflow=3, rows_new=1)
    assert own.cells() == {Key(SHIP, NOON_US, STATE): Cell("a"), Key(SHIP, NOON_US, LOAD): Cell("1")}
    assert own.overflow() == {
        UNLISTED_KEY: Cell("b"),
        Key(SHIP, NOON_US, SPEED): Cell("c"),
        Key("nobody", NOON_US, STATE): Cell("d"),
    }
    assert own.reasons() == {
        UNLISTED_KEY: "no_channel",
        Key(SHIP, NOON_US, SPEED): "pending",
        Key("nobody", NOON_US, STATE): "no_ship",
    }


@pytest.mark.parametrize("deletes", ["apply", "ignore"])
def test_events_that_a_batch_outranks_itself_never_reach_overflow(worlds: Worlds, deletes: Deletes) -> None:
    """They are superseded where they are folded: a create below an update, an update below another."""
    world = worlds("text", deletes)
    batch = [created("a", UNLISTED), updated("b", UNLISTED), deleted(UNLISTED), updated("c", UNLISTED, lsn=4)]
    assert world.write(batch) == Applied(events=4, superseded=3, overflow=1)
    assert world.overflow() == {UNLISTED_KEY: Cell("c", (1, 4), "u")}


def test_the_format_of_a_value_is_kept(world: WriterWorld) -> None:
    """It decides the type of the column to come; a delete, which has none, does not blur it."""
    event = Event(Op.CREATE, (1, 1), "1.5")
    world.write([Sample(UNLISTED_KEY, event, "Decimal")])
    world.write([Sample(UNLISTED_KEY, Event(Op.DELETE, (1, 2)), None)])
    assert world.conn.execute("SELECT value_format FROM overflow_cell").fetchall() == [("Decimal",)]


def test_a_ship_and_channel_that_come_to_life_leave_overflow_to_the_drain(own: WriterWorld) -> None:
    """New events go to the column; what overflow held waits for the one who moves it."""
    own.write([created("a", UNLISTED)])
    with layout_change(own.conn):
        own.conn.execute(
            "INSERT INTO channel (channel_id, table_no, column_name, column_type) VALUES (%s, 1, %s, 'text')",
            [UNLISTED, UNLISTED],
        )
        for table, _, number in own.tables():
            if number == 1:
                name = table.replace('"', '""')
                own.conn.execute(f'ALTER TABLE wide_text_apply."{name}" ADD "{UNLISTED}" text'.encode())
        raise_version(own.conn)
    own.writer.load()
    own.channels[UNLISTED] = (1, UNLISTED)
    own.write([created("b", UNLISTED, moment_us=NOON_US + TICK_US)])
    assert own.cells() == {Key(SHIP, NOON_US + TICK_US, UNLISTED): Cell("b")}
    assert own.overflow() == {UNLISTED_KEY: Cell("a")}


def test_overflow_cells_are_locked_in_the_order_of_their_keys(world: WriterWorld) -> None:
    """Whatever order they were made in or come in: two writers of the same cells can't deadlock."""
    moments = [NOON_US + i * TICK_US for i in range(9)]
    for moment_us in reversed(moments):
        world.write([created("a", UNLISTED, moment_us=moment_us)])
    batch = [updated("b", UNLISTED, moment_us=moments[i], lsn=i + 2) for i in (8, 2, 6, 0, 4, 1, 5, 3, 7)]
    with world.second() as other, world.second() as watcher, ThreadPoolExecutor() as pool:
        with world.conn.transaction():
            world.conn.execute(
                f"SELECT FROM overflow_cell WHERE {MOMENT_US} = {moments[4]} FOR UPDATE".encode()
            )
            done = pool.submit(other.write, batch)
            wait_for_lock(world, other)
            query = f"SELECT {MOMENT_US} FROM overflow_cell ORDER BY created_time FOR UPDATE SKIP LOCKED"
            free = [moment_us for (moment_us,) in watcher.conn.execute(query.encode())]
        assert done.result().overflow == len(batch)
    assert free == moments[5:]


def test_two_writers_that_hammer_the_same_overflow_cells_both_arrive(world: WriterWorld) -> None:
    """Inserts and updates mixed, in random order, again and again; no deadlock, and the newest version stays."""
    moments = [NOON_US + i * TICK_US for i in range(300)]

    def hammer(mine: WriterWorld, seed: int) -> None:
        rng = random.Random(seed)
        for lsn in range(2, 8):
            chosen = rng.sample(moments, 300)
            batch = [created("c", UNLISTED, moment_us=m, lsn=lsn) for m in chosen[:120]]
            mine.write(batch + [updated(f"{lsn}", UNLISTED, moment_us=m, lsn=lsn) for m in chosen[120:]])

    with world.second() as other, ThreadPoolExecutor() as pool:
        for done in [pool.submit(hammer, mine, i) for i, mine in enumerate((world, other))]:
            done.result()
    found = world.overflow()
    assert len(found) == len(moments)
    assert all(cell.value == f"{cell.version[1]}" for cell in found.values() if cell.version)


# -- values that do not fit their column --------------------------------------------------------------------------

MISFITS = [
    pytest.param(LOAD, "abc", id="a word for a float8"),
    pytest.param(LOAD, "9007199254740993", id="an integer that a float8 rounds"),
    pytest.param(LOAD, "1e5", id="a float8 that prints in another way"),
    pytest.param(LOAD, "", id="the empty text for a float8"),
    pytest.param(COUNT, "9223372036854775808", id="one more than an int8 holds"),
    pytest.param(COUNT, "1.0", id="a decimal for an int8"),
    pytest.param(COUNT, "007", id="an int8 that prints in another way"),
    pytest.param(ON, "on", id="a word for a bool"),
]


@pytest.mark.parametrize(("channel", "value"), MISFITS)
def test_a_created_value_that_does_not_fit_stands_in_overflow(
    typed: WriterWorld, channel: str, value: str
) -> None:
    """From the stream and from history, in new rows and in rows that are there; the column stays NULL."""
    later = NOON_US + TICK_US
    typed.write([created("a")])
    typed.write([created(value, channel)])
    typed.write([copied("b", moment_us=later), copied(value, channel, moment_us=later)], origin=HISTORY)
    keys = [Key(SHIP, NOON_US, channel), Key(SHIP, later, channel)]
    assert typed.overflow() == dict.fromkeys(keys, Cell(value))
    assert typed.reasons() == dict.fromkeys(keys, "does_not_fit")
    assert set(typed.cells()) == {Key(SHIP, NOON_US, STATE), Key(SHIP, later, STATE)}


@pytest.mark.parametrize(("channel", "value"), MISFITS)
def test_an_update_that_does_not_fit_voids_its_column(typed: WriterWorld, channel: str, value: str) -> None:
    """Kind "o": the older value must not stay visible, and no replay brings it back."""
    key, good = Key(SHIP, NOON_US, channel), {LOAD: "1.5", COUNT: "1", ON: "true"}[channel]
    typed.write([created(good, channel)])
    typed.write([updated(value, channel, lsn=5)])
    assert typed.cells() == {key: Cell(None, (1, 5), "o")}
    assert typed.overflow() == {key: Cell(value, (1, 5), "u")}
    typed.write([created(good, channel), updated(good, channel, lsn=4), copied(good, channel)])
    assert typed.cells() == {key: Cell(None, (1, 5), "o")}

    typed.write([updated(good, channel, lsn=6)])
    assert typed.cells() == {key: Cell(good, (1, 6), "u")}
    assert typed.overflow() == {}


def test_a_delete_takes_the_misfit_out_of_overflow(typed: WriterWorld) -> None:
    """Of a created value as of an updated one, together with its row's other cells or alone."""
    typed.write([created("abc", LOAD), updated("abc", COUNT, lsn=2), created("a")])
    assert len(typed.overflow()) == 2
    typed.write([deleted(LOAD, lsn=5), deleted(COUNT, lsn=6)])
    assert typed.overflow() == {}
    assert typed.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("a"),
        Key(SHIP, NOON_US, LOAD): Cell(None, (1, 5), "d"),
        Key(SHIP, NOON_US, COUNT): Cell(None, (1, 6), "d"),
    }


def test_a_reinsert_that_does_not_fit_keeps_the_deletes_version(typed: WriterWorld) -> None:
    """Both in one batch: the tombstone goes to the column, the value to overflow."""
    typed.write([created("1.5", LOAD)])
    applied = typed.write([deleted(LOAD, lsn=5), created("abc", LOAD, lsn=6)])
    key = Key(SHIP, NOON_US, LOAD)
    assert applied == Applied(events=2, applied=1, overflow=1, rows_merged=1, cells_set=1)
    assert typed.cells() == {key: Cell(None, (1, 5), "d")}
    assert typed.overflow() == {key: Cell("abc")}


def test_hard_numbers_that_fit_are_not_diverted(typed: WriterWorld) -> None:
    """Text of any source format fits if the column gives it back as it was."""
    numbers = ["NaN", "Infinity", "-Infinity", "-0", "1e+16", "5e-324", "0.1", "100"]
    typed.write([created(n, LOAD, moment_us=NOON_US + i * TICK_US) for i, n in enumerate(numbers)])
    typed.write([created("9223372036854775807", COUNT), created("false", ON)])
    assert typed.overflow() == {}
    assert [cell.value for key, cell in sorted(typed.cells().items()) if key.channel == LOAD] == numbers


# -- rows too big for a page --------------------------------------------------------------------------------------

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
