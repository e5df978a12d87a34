"""The writer on PostgreSQL, case by case: what becomes of each event, and of one that comes again."""

from __future__ import annotations

import pytest

from tests.property.model.cell import Cell, Event
from tests.writer_samples import (
    COUNT,
    HOSTILE,
    LOAD,
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
    copied,
    created,
    deleted,
    updated,
)
from tests.writer_world import HISTORY, Worlds, WriterWorld
from widetable import pivot, wide_rows
from widetable.applied import Applied
from widetable.narrow import Op

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture"]

# -- counts -----------------------------------------------------------------------------------------------------


def test_every_event_is_counted_once_as_what_became_of_it(typed_world: WriterWorld) -> None:
    """One batch with everything in it, on a row that is there and rows that are not."""
    typed_world.write([updated("7", COUNT, lsn=50), created("calm")])
    later = NOON_US + TICK_US
    applied = typed_world.write(
        [
            created("1.5", LOAD),  # fills a hole
            created("1.5", LOAD),  # folded
            updated("8", COUNT, lsn=40),  # outranked
            updated("rough", lsn=10),  # set
            created("true", ON, moment_us=later),  # a new row
            updated("1.5", SPEED, moment_us=later, lsn=3),  # folded
            updated("2.5", SPEED, moment_us=later, lsn=4),  # a new row
            deleted(COUNT, moment_us=later, lsn=5),  # both count: a tombstone
            created("9", COUNT, moment_us=later, lsn=6),  # and the value after it
            created("x", LOAD, moment_us=later),  # does not fit
            created("x", UNLISTED),  # no column
            created("x", ship="nobody"),  # no ship
            created("nul\0", HOSTILE),  # can't be stored
            Sample(
                Key(SISTER, NOON_US, STATE), Event(Op.CREATE, (1, 1), "fine"), "Decimal"
            ),  # another format
        ]
    )
    assert applied == Applied(
        events=14,
        applied=7,
        superseded=3,
        overflow=3,
        dead=1,
        format_mismatch=1,
        rows_new=4,
        rows_merged=1,
        cells_set=3,
    )


def test_repeated_creates_of_one_batch_are_counted_once(text_world: WriterWorld) -> None:
    """A batch without any version takes a short cut through the fold, but not past its duplicates."""
    applied = text_world.write([created("a"), created("a"), created("1", LOAD), created("a")])
    assert applied == Applied(events=4, applied=2, superseded=2, rows_new=1)


def test_ignored_deletes_are_applied_events(worlds: Worlds) -> None:
    """Each leaves its version, alone or with what it follows; a replay finds it outranked."""
    world = worlds("text", "ignore")
    batch = [
        created("a"),
        deleted(STATE, lsn=2),
        deleted(LOAD, lsn=2),
        updated("b", HOSTILE),
        deleted(HOSTILE),
    ]
    assert world.write(batch) == Applied(events=5, applied=5, rows_new=2, cells_set=1)
    assert world.write(batch) == Applied(events=5, superseded=5)
    assert world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("a", (1, 2), "d"),
        Key(SHIP, NOON_US, LOAD): Cell(None, (1, 2), "d"),
        Key(SHIP, NOON_US, HOSTILE): Cell("b", (1, 3), "d"),
    }


def test_counts_add_up_over_batches() -> None:
    """Field by field; a sum of balanced counts is balanced."""
    one = Applied(events=3, applied=1, superseded=1, overflow=1)
    other = Applied(events=2, dead=2, rows_new=4)
    assert one.balanced
    assert other.balanced
    assert one + other == Applied(events=5, applied=1, superseded=1, overflow=1, dead=2, rows_new=4)
    assert not Applied(events=1).balanced


def test_an_empty_batch_is_nothing(text_world: WriterWorld) -> None:
    """No row, no count."""
    assert text_world.write([]) == Applied()


# -- repetition -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("both_merges")
def test_a_replay_writes_no_tuple(typed_world: WriterWorld) -> None:
    """Creates, updates, deletes, misfits, overflow and dead cells: all of it is there already."""
    batch = [
        created("1.5", LOAD),
        created("x", COUNT),
        created("nul\0", ship=SISTER),
        created(None, SPEED),
        updated("x", ON, lsn=4),
        updated("rough", lsn=5),
        deleted(HOSTILE, lsn=6),
        created("again", HOSTILE, lsn=7),
        created("a", UNLISTED),
        deleted(UNLISTED, lsn=8),
        created("b", UNLISTED, lsn=9),
    ]
    typed_world.write(batch)
    before, texts = typed_world.tuples_written(), typed_world.texts()
    assert sum(before.values()) > 5
    typed_world.write(batch)
    typed_world.write(batch[4:])
    assert typed_world.tuples_written() == before
    assert typed_world.texts() == texts


@pytest.mark.usefixtures("both_merges")
def test_history_on_rows_that_the_stream_has_made_fills_holes_only(text_world: WriterWorld) -> None:
    """And says nothing where something is said, be it NULL by a version."""
    text_world.write([created("live", STATE), deleted(LOAD, lsn=9)])
    text_world.write([copied("old", STATE), copied("old", LOAD), copied("old", COUNT)], origin=HISTORY)
    assert text_world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("live"),
        Key(SHIP, NOON_US, LOAD): Cell(None, (1, 9), "d"),
        Key(SHIP, NOON_US, COUNT): Cell("old"),
    }


@pytest.mark.usefixtures("both_merges")
def test_absent_cells_are_left_alone(text_world: WriterWorld) -> None:
    """A statement touches the cells that it carries, and no others of the row."""
    text_world.write([created("a", STATE), created("1", LOAD), created("2", HOSTILE)])
    text_world.write([updated("b", STATE, lsn=5), updated(None, LOAD, lsn=6)])
    assert text_world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("b", (1, 5), "u"),
        Key(SHIP, NOON_US, LOAD): Cell(None, (1, 6), "u"),
        Key(SHIP, NOON_US, HOSTILE): Cell("2"),
    }


def test_a_delete_of_a_row_that_nobody_has_seen_leaves_its_version(text_world: WriterWorld) -> None:
    """Else a slice that was read before it would bring the cell back."""
    text_world.write([deleted(STATE, lsn=5)])
    text_world.write([copied("ghost")], origin=HISTORY)
    assert text_world.cells() == {Key(SHIP, NOON_US, STATE): Cell(None, (1, 5), "d")}


@pytest.mark.usefixtures("both_merges")
def test_batches_larger_than_a_pivot_are_written_in_parts(
    text_world: WriterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New rows and merged ones, ships and tables mixed: the same tables, piece by piece."""
    moments = [NOON_US + i * TICK_US for i in range(40)]
    batch = [
        event
        for i, moment_us in enumerate(moments)
        for ship in (SHIP, SISTER)
        for event in (
            created(f"a{i}", STATE, ship=ship, moment_us=moment_us),
            updated(f"b{i}", HOSTILE, ship=ship, moment_us=moment_us, lsn=i + 1),
        )
    ]
    more = [updated(f"c{i}", STATE, moment_us=moment_us, lsn=i + 1) for i, moment_us in enumerate(moments)]
    more += [created("d", SPEED, moment_us=moment_us) for moment_us in moments]
    text_world.write(batch)
    text_world.write(more)
    wanted = text_world.texts()
    text_world.clear()
    monkeypatch.setattr(pivot, "MAX_SLOTS", 23)
    text_world.write(batch)
    text_world.write(more)
    assert text_world.texts() == wanted
    assert len(wanted["tbl_data_timeseries_imo9000001_1"]) == len(moments)


def test_new_rows_are_copied_in_the_order_of_their_keys(
    text_world: WriterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table by table, by name, and by moment within: so two writers of new rows wait, and never in a circle."""
    copied_to: list[str] = []
    copy = wide_rows.WideRows._copy

    def record(self: wide_rows.WideRows, query: str, data: memoryview) -> None:
        copied_to.extend(f"{query} {line[:26]!r}" for line in bytes(data).splitlines())
        copy(self, query, data)

    monkeypatch.setattr(wide_rows.WideRows, "_copy", record)
    batch = [
        created("x", channel, ship=ship, moment_us=NOON_US + i * TICK_US)
        for channel in (SPEED, STATE, HOSTILE)
        for ship in (SISTER, SHIP)
        for i in (2, 0, 1)
    ]
    text_world.write(batch)
    assert len(copied_to) == len(batch)
    assert copied_to == sorted(copied_to)
