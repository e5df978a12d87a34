"""Overflow on PostgreSQL: cells without a column, and values that don't fit the one they have."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.property.model.cell import Cell, Event
from tests.writer_samples import (
    COUNT,
    LOAD,
    NOON_US,
    ON,
    SHIP,
    SPEED,
    STATE,
    TICK_US,
    UNLISTED,
    Key,
    Sample,
    copied,
    created,
    deleted,
    updated,
)
from tests.writer_world import HISTORY, Worlds, WriterWorld, wait_for_lock
from widetable.applied import Applied
from widetable.layout_lock import layout_change, raise_version
from widetable.narrow import Op
from widetable.schema_plan import Deletes

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture"]

UNLISTED_KEY = Key(SHIP, NOON_US, UNLISTED)


# -- cells without a column ---------------------------------------------------------------------------------------


def test_what_has_no_column_is_kept_with_the_reason_and_costs_the_others_nothing(
    own_world: WriterWorld,
) -> None:
    """A channel that nobody knows, one that is not drained yet, a ship without tables."""
    own_world.conn.execute("UPDATE channel SET state = 'pending' WHERE channel_id = %s", [SPEED])
    own_world.writer.load()
    applied = own_world.write(
        [
            created("a"),
            created("b", UNLISTED),
            created("c", SPEED),
            created("d", ship="nobody"),
            created("1", LOAD),
        ]
    )
    assert applied == Applied(events=5, applied=2, overflow=3, rows_new=1)
    assert own_world.cells() == {Key(SHIP, NOON_US, STATE): Cell("a"), Key(SHIP, NOON_US, LOAD): Cell("1")}
    assert own_world.overflow() == {
        UNLISTED_KEY: Cell("b"),
        Key(SHIP, NOON_US, SPEED): Cell("c"),
        Key("nobody", NOON_US, STATE): Cell("d"),
    }
    assert own_world.reasons() == {
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


def test_the_format_of_a_value_is_kept(text_world: WriterWorld) -> None:
    """It decides the type of the column to come; a delete, which has none, does not blur it."""
    event = Event(Op.CREATE, (1, 1), "1.5")
    text_world.write([Sample(UNLISTED_KEY, event, "Decimal")])
    text_world.write([Sample(UNLISTED_KEY, Event(Op.DELETE, (1, 2)), None)])
    assert text_world.conn.execute("SELECT value_format FROM overflow_cell").fetchall() == [("Decimal",)]


def test_a_ship_and_channel_that_come_to_life_leave_overflow_to_the_drain(own_world: WriterWorld) -> None:
    """New events go to the column; what overflow held waits for the one who moves it."""
    own_world.write([created("a", UNLISTED)])
    with layout_change(own_world.conn):
        own_world.conn.execute(
            "INSERT INTO channel (channel_id, table_no, column_name, column_type) VALUES (%s, 1, %s, 'text')",
            [UNLISTED, UNLISTED],
        )
        for table, _, number in own_world.tables():
            if number == 1:
                name = table.replace('"', '""')
                own_world.conn.execute(f'ALTER TABLE wide_text_apply."{name}" ADD "{UNLISTED}" text'.encode())
        raise_version(own_world.conn)
    own_world.writer.load()
    own_world.channels[UNLISTED] = (1, UNLISTED)
    own_world.write([created("b", UNLISTED, moment_us=NOON_US + TICK_US)])
    assert own_world.cells() == {Key(SHIP, NOON_US + TICK_US, UNLISTED): Cell("b")}
    assert own_world.overflow() == {UNLISTED_KEY: Cell("a")}


def test_overflow_cells_are_locked_in_the_order_of_their_keys(text_world: WriterWorld) -> None:
    """Whatever order they come in, two writers of the same cells can't deadlock."""
    channels = [f"new/{number}" for number in range(9)]
    text_world.write([created("a", channel) for channel in reversed(channels)])
    batch = [updated("b", channels[i]) for i in (8, 2, 6, 0, 4, 1, 5, 3, 7)]
    with text_world.second() as other, text_world.second() as watcher, ThreadPoolExecutor() as pool:
        other.conn.execute("SET enable_mergejoin = off")  # a plan that does not come in that order by itself
        with text_world.conn.transaction():
            text_world.conn.execute(
                "SELECT FROM overflow_cell WHERE channel_id = %s FOR UPDATE", [channels[4]]
            )
            done = pool.submit(other.write, batch)
            wait_for_lock(text_world, other)
            free = watcher.conn.execute(
                "SELECT channel_id FROM overflow_cell ORDER BY channel_id FOR UPDATE SKIP LOCKED"
            ).fetchall()
        assert done.result().overflow == len(batch)
    assert [channel for (channel,) in free] == channels[5:]


def test_two_writers_that_hammer_the_same_overflow_cells_both_arrive(text_world: WriterWorld) -> None:
    """Inserts and updates mixed, in random order, again and again; no deadlock, and the newest version stays."""
    moments = [NOON_US + i * TICK_US for i in range(300)]

    def hammer(mine: WriterWorld, seed: int) -> None:
        rng = random.Random(seed)
        for lsn in range(2, 8):
            chosen = rng.sample(moments, 300)
            batch = [created("c", UNLISTED, moment_us=m, lsn=lsn) for m in chosen[:120]]
            mine.write(batch + [updated(f"{lsn}", UNLISTED, moment_us=m, lsn=lsn) for m in chosen[120:]])

    with text_world.second() as other, ThreadPoolExecutor() as pool:
        for done in [pool.submit(hammer, mine, i) for i, mine in enumerate((text_world, other))]:
            done.result()
    found = text_world.overflow()
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
    typed_world: WriterWorld, channel: str, value: str
) -> None:
    """From the stream and from history, in new rows and in rows that are there; the column stays NULL."""
    later = NOON_US + TICK_US
    typed_world.write([created("a")])
    typed_world.write([created(value, channel)])
    typed_world.write([copied("b", moment_us=later), copied(value, channel, moment_us=later)], origin=HISTORY)
    keys = [Key(SHIP, NOON_US, channel), Key(SHIP, later, channel)]
    assert typed_world.overflow() == dict.fromkeys(keys, Cell(value))
    assert typed_world.reasons() == dict.fromkeys(keys, "does_not_fit")
    assert set(typed_world.cells()) == {Key(SHIP, NOON_US, STATE), Key(SHIP, later, STATE)}


@pytest.mark.parametrize(("channel", "value"), MISFITS)
def test_an_update_that_does_not_fit_voids_its_column(
    typed_world: WriterWorld, channel: str, value: str
) -> None:
    """Kind "o": the older value must not stay visible, and no replay brings it back."""
    key, good = Key(SHIP, NOON_US, channel), {LOAD: "1.5", COUNT: "1", ON: "true"}[channel]
    typed_world.write([created(good, channel)])
    typed_world.write([updated(value, channel, lsn=5)])
    assert typed_world.cells() == {key: Cell(None, (1, 5), "o")}
    assert typed_world.overflow() == {key: Cell(value, (1, 5), "u")}
    typed_world.write([created(good, channel), updated(good, channel, lsn=4), copied(good, channel)])
    assert typed_world.cells() == {key: Cell(None, (1, 5), "o")}

    typed_world.write([updated(good, channel, lsn=6)])
    assert typed_world.cells() == {key: Cell(good, (1, 6), "u")}
    assert typed_world.overflow() == {}


def test_a_delete_takes_the_misfit_out_of_overflow(typed_world: WriterWorld) -> None:
    """Of a created value as of an updated one, together with its row's other cells or alone."""
    typed_world.write([created("abc", LOAD), updated("abc", COUNT, lsn=2), created("a")])
    assert len(typed_world.overflow()) == 2
    typed_world.write([deleted(LOAD, lsn=5), deleted(COUNT, lsn=6)])
    assert typed_world.overflow() == {}
    assert typed_world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("a"),
        Key(SHIP, NOON_US, LOAD): Cell(None, (1, 5), "d"),
        Key(SHIP, NOON_US, COUNT): Cell(None, (1, 6), "d"),
    }


def test_a_reinsert_that_does_not_fit_keeps_the_deletes_version(typed_world: WriterWorld) -> None:
    """Both in one batch: the tombstone goes to the column, the value to overflow."""
    typed_world.write([created("1.5", LOAD)])
    applied = typed_world.write([deleted(LOAD, lsn=5), created("abc", LOAD, lsn=6)])
    key = Key(SHIP, NOON_US, LOAD)
    assert applied == Applied(events=2, applied=1, overflow=1, rows_merged=1, cells_set=1)
    assert typed_world.cells() == {key: Cell(None, (1, 5), "d")}
    assert typed_world.overflow() == {key: Cell("abc")}


def test_hard_numbers_that_fit_are_not_diverted(typed_world: WriterWorld) -> None:
    """Text of any source format fits if the column gives it back as it was."""
    numbers = ["NaN", "Infinity", "-Infinity", "-0", "1e+16", "5e-324", "0.1", "100"]
    typed_world.write([created(n, LOAD, moment_us=NOON_US + i * TICK_US) for i, n in enumerate(numbers)])
    typed_world.write([created("9223372036854775807", COUNT), created("false", ON)])
    assert typed_world.overflow() == {}
    assert [cell.value for key, cell in sorted(typed_world.cells().items()) if key.channel == LOAD] == numbers
