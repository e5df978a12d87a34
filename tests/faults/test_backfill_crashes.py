"""F15: a backfill, or its target, dies in mid-slice, and two backfills work at once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Final

import psycopg
import pytest

from devstack.fleet import HistoryReport, Mix
from devstack.product import Process
from tests.faults import oracle
from tests.faults.gates import Gate
from tests.faults.world import World, logged
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

ROWS: Final = 30_000
SMALL: Final = {"CDC_BACKFILL__SLICE_ROWS": "3000", "CDC_BACKFILL__WORKERS": "1"}
BOUNDS: Final = """
SELECT coalesce(timestamp '1970-01-01' + lower_us * interval '1 us', timestamp '0001-01-01'),
       coalesce(timestamp '1970-01-01' + upper_us * interval '1 us', timestamp '9999-01-01')
FROM cdc.slice WHERE state = 'done'
"""


def last_table(world: World) -> AbstractContextManager[Gate]:
    """Holds a slice when it has written all tables but one."""
    return world.gate("in write", "backfill%", wide_table=-1)


def backfill(world: World) -> Process:
    """A backfill with one worker and many slices."""
    return world.pipeline.product.start("backfill", "run", environment=SMALL)


def some_slices_done(world: World) -> None:
    """Wait until some of the slices are done, and not all."""
    wait_until(
        lambda: world.pipeline.target_value("SELECT count(*) FROM slice WHERE state = 'done'") > 1, "slices"
    )


def require_whole_slices(world: World, history: HistoryReport) -> None:
    """Of history, the target has the cells of the slices that are done, and not one more."""
    with psycopg.connect(world.pipeline.target, autocommit=True) as conn:
        done: list[tuple[datetime, datetime]] = conn.execute(BOUNDS).fetchall()
    source, target = oracle.source_cells(world.pipeline.source), oracle.target_cells(world.pipeline.target)
    expected = {
        cell
        for cell in source
        if history.first_moment <= cell[1] < history.until and any(a <= cell[1] < b for a, b in done)
    }
    found = {cell for cell in target if history.first_moment <= cell[1] < history.until}
    assert expected == found, f"{len(expected - found)} cells are missing, {len(found - expected)} too many"
    assert expected


@pytest.mark.faults
@pytest.mark.fault("F15", "kill -9 the backfill in mid-slice")
def test_a_killed_backfill_leaves_whole_slices(world: World) -> None:
    """What is done is there, what is not leaves nothing, and the next run ends the copy."""
    history = world.history(ROWS)
    world.hand_off()
    consumer = world.consume()
    first = backfill(world)
    some_slices_done(world)
    with last_table(world) as gate:
        gate.catch()
        first.kill()
        world.fire()
        gate.end_caught()
        require_whole_slices(world, history)
    with world.load():
        world.flows()
        second = backfill(world)
        assert second.child.wait(120) == 0, logged(second)
    require_whole_slices(world, history)
    world.prove(consumer)


@pytest.mark.faults
@pytest.mark.fault("F15", "two backfills at once")
def test_two_backfills_at_once_copy_each_slice_once(world: World) -> None:
    """They share a plan; both are seen in mid-slice at the same time."""
    history = world.history(ROWS)
    world.hand_off()
    consumer = world.consume()
    no_newcomer = Mix(unknown_ship=0)  # it would get a plan of its own
    with world.load(mix=no_newcomer):
        world.flows()
        with last_table(world) as gate:
            runs = [backfill(world)]
            gate.catch()
            runs.append(backfill(world))
            wait_until(lambda: len(gate.caught()) == len(runs), "both runs are in mid-slice", 45.0)
            world.fire()
            gate.open()
            assert [run.child.wait(120) for run in runs] == [0, 0], logged(runs[0])
    assert world.pipeline.target_value("SELECT count(*) FROM plan") == 1
    require_whole_slices(world, history)
    world.prove(consumer)


@pytest.mark.faults
@pytest.mark.fault("F15", "target killed and started in mid-slice")
def test_a_target_that_crashes_in_mid_slice_keeps_whole_slices(world: World) -> None:
    """The backfill waits for the target, repeats the slice and ends well; so does the consumer beside it."""
    history = world.history(ROWS)
    world.hand_off()
    consumer = world.consume()
    with world.load():
        world.flows()
        run = backfill(world)
        some_slices_done(world)
        with last_table(world) as gate:
            gate.catch()
            world.stop(run)
            world.stack.postgres.kill()
            world.fire()
        world.stack.postgres.start()
        require_whole_slices(world, history)
        world.resume(run)
        world.recovered()
        assert run.child.wait(120) == 0, logged(run)
    require_whole_slices(world, history)
    world.prove(consumer)
