"""Two writers on the same rows, and sessions that end: nothing is lost, doubled or resurrected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.property.model.cell import Cell
from tests.writer_samples import (
    COUNT,
    HOSTILE,
    LOAD,
    NOON_US,
    SHIP,
    STATE,
    TABLE_OF,
    TICK_US,
    UNLISTED,
    Key,
    copied,
    created,
    deleted,
    narrow_batch,
    updated,
)
from tests.writer_world import HISTORY, WriterWorld, waiting_behind
from widetable.applied import Applied
from widetable.postgres import is_retryable

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture"]


def test_two_writers_of_the_same_new_row_both_arrive(text_world: WriterWorld) -> None:
    """The second finds the row when it wants to insert it, starts over, and merges."""
    mine = [created("a", STATE), created("1", LOAD)]
    theirs = [updated("b", STATE, lsn=7), created("2", LOAD), created("3", COUNT), created("c", HOSTILE)]
    with text_world.second() as other, waiting_behind(text_world, theirs, other) as done:
        text_world.writer.apply(narrow_batch(mine), [], HISTORY)
    assert done[0].rows_merged == 1
    assert done[0].rows_new == 1
    assert text_world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("b", (1, 7), "u"),
        Key(SHIP, NOON_US, LOAD): Cell("1"),
        Key(SHIP, NOON_US, COUNT): Cell("3"),
        Key(SHIP, NOON_US, HOSTILE): Cell("c"),
    }


def test_an_older_update_that_waited_for_a_newer_one_is_outranked(text_world: WriterWorld) -> None:
    """What the row has recorded is read under its lock, not before."""
    text_world.write([created("a"), updated("b", lsn=2)])
    with text_world.second() as other, waiting_behind(text_world, [updated("old", lsn=5)], other) as done:
        text_world.writer.apply(narrow_batch([updated("new", lsn=9)]), [], HISTORY)
    assert done == [Applied(events=1, superseded=1)]
    assert text_world.cells() == {Key(SHIP, NOON_US, STATE): Cell("new", (1, 9), "u")}


@pytest.mark.parametrize("slice_first", [True, False], ids=["slice first", "delete first"])
def test_a_delete_and_a_slice_at_the_same_time_do_not_resurrect(
    text_world: WriterWorld, slice_first: bool
) -> None:
    """Whoever comes second sees what the first has recorded, in the row itself."""
    slice_, live = [copied("ghost")], [deleted(STATE, lsn=5)]
    first, then = (slice_, live) if slice_first else (live, slice_)
    with text_world.second() as other, waiting_behind(text_world, then, other):
        text_world.writer.apply(narrow_batch(first), [], HISTORY)
    assert text_world.cells() == {Key(SHIP, NOON_US, STATE): Cell(None, (1, 5), "d")}


@pytest.mark.parametrize("slice_first", [True, False], ids=["slice first", "delete first"])
def test_a_delete_and_a_misfit_at_the_same_time_leave_nothing_in_overflow(
    typed_world: WriterWorld, slice_first: bool
) -> None:
    """The row is made though it stays empty: it is where the two writers meet."""
    slice_, live = [copied("no number", LOAD)], [deleted(LOAD, lsn=5)]
    first, then = (slice_, live) if slice_first else (live, slice_)
    with typed_world.second() as other, waiting_behind(typed_world, then, other):
        typed_world.writer.apply(narrow_batch(first), [], HISTORY)
    assert typed_world.cells() == {Key(SHIP, NOON_US, LOAD): Cell(None, (1, 5), "d")}
    assert typed_world.overflow() == {}


def test_writers_that_race_for_many_rows_end_equal(text_world: WriterWorld) -> None:
    """Live and history on the same rows in opposite order, again and again."""
    moments = [NOON_US + i * TICK_US for i in range(150)]
    live = [updated("live", channel, moment_us=m, lsn=3) for m in moments for channel in TABLE_OF]
    history = [copied("old", channel, moment_us=m) for m in reversed(moments) for channel in TABLE_OF]
    wanted = {Key(SHIP, m, channel): Cell("live", (1, 3), "u") for m in moments for channel in TABLE_OF}
    with text_world.second() as other:
        for _ in range(5):
            text_world.clear()
            with racing(lambda: other.write(history, origin=HISTORY)):
                text_world.write(live)
            assert text_world.cells() == wanted


@contextmanager
def racing(action: Callable[[], object]) -> Iterator[None]:
    """Run an action in a thread beside the block; it must succeed."""
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(action()))
    thread.start()
    yield
    thread.join()
    assert done, "the other writer failed"


def test_waiting_for_a_lock_ends_as_something_to_retry(own_world: WriterWorld) -> None:
    """The batch is given back whole; nothing of it is written."""
    own_world.write([created("a", STATE)])
    with own_world.second() as other:
        other.conn.execute("SET lock_timeout = '50ms'")
        with own_world.conn.transaction():
            own_world.writer.begin()
            own_world.writer.apply(narrow_batch([updated("b", STATE)]), [], HISTORY)
            with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
                other.write([updated("c", STATE, lsn=9), created("1", LOAD, moment_us=NOON_US + TICK_US)])
    assert is_retryable(caught.value)
    assert own_world.cells() == {Key(SHIP, NOON_US, STATE): Cell("b", (1, 2), "u")}


def test_a_session_killed_in_mid_transaction_leaves_nothing(own_world: WriterWorld) -> None:
    """Rows, overflow and dead cells go together."""
    batch = narrow_batch([created("a"), created("b", UNLISTED), created("\0", LOAD), updated("c", HOSTILE)])

    def killed(victim: WriterWorld) -> None:
        with victim.conn.transaction():
            victim.writer.begin()
            victim.writer.apply(batch, [], HISTORY)
            own_world.conn.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.conn.info.backend_pid])

    with own_world.second() as victim, pytest.raises(psycopg.OperationalError) as caught:
        killed(victim)
    assert is_retryable(caught.value)
    assert own_world.cells() == own_world.overflow() == {}
    assert own_world.conn.execute("SELECT count(*) FROM dead_cell").fetchone() == (0,)
    assert own_world.apply(batch) == Applied(events=4, applied=2, overflow=1, dead=1, rows_new=2, cells_set=1)
