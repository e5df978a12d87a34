"""The watchdog's judgement: what stops the program, what only warns, and when a connector is started again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Event

import pytest

from cdc_consumer.slot import Slot
from cdc_consumer.watchdog import CONFIRMING_LOOKS, OLD_LOOKS, SLOW_LOOK_S, Sight, Watchdog
from tests.waiting import wait_until
from widetable.errors import StoppedError

EVERY_S = 5.0


def slot(confirmed: int = 100) -> Slot:
    """A healthy slot."""
    return Slot("s", "pgoutput", "d", 7, confirmed, "reserved", None, 1000)


class World:
    """A watchdog whose looks find `sight`, with a clock set by hand."""

    def __init__(self) -> None:
        self.sight = Sight()
        self.now = 0.0
        self.looks = self.restarts = 0
        self.goes_on = Event()
        self.goes_on.set()
        self.dog = Watchdog(self._look, self._restart, EVERY_S, lambda: self.now)

    def _look(self) -> Sight:
        self.looks += 1
        assert self.goes_on.wait(30)
        return self.sight

    def _restart(self) -> None:
        self.restarts += 1

    def look(self, times: int = 1) -> None:
        """Let this many looks begin and be judged."""
        wanted = self.looks + times
        wait_until(lambda: self._stepped(wanted), "the watchdog looks")

    def _stepped(self, wanted: int) -> bool:
        self.dog.step()
        return self.looks > wanted


def test_what_is_broken_for_good_stops_the_program_at_once() -> None:
    """An advanced slot looks healthy again as soon as Debezium went on from it."""
    world = World()
    world.sight = Sight(broken=["replication slot s was advanced"])
    with pytest.raises(StoppedError, match="slot s was advanced"):
        world.look(10)
    assert world.looks == 1


def test_a_suspicion_stops_the_program_after_it_was_confirmed() -> None:
    """One look may err: a broker that was restarted does not know its topics yet."""
    world = World()
    world.sight = Sight(suspected=["topic t is gone"])
    with pytest.raises(StoppedError, match="topic t is gone"):
        world.look(10)
    assert CONFIRMING_LOOKS <= world.looks <= CONFIRMING_LOOKS + 1


def test_partitions_that_somebody_added_stop_the_program_with_their_own_way_out() -> None:
    """A new epoch would be too much."""
    world = World()
    world.sight = Sight(added=["run `cdc-consumer repartition`"])
    with pytest.raises(StoppedError) as stopped:
        world.look(10)
    assert CONFIRMING_LOOKS <= world.looks <= CONFIRMING_LOOKS + 1
    assert "reinit" not in str(stopped.value)


def test_a_fault_that_passes_stops_nothing() -> None:
    """Looks that could not be taken, and faults that are gone at the next look, are warnings."""
    world = World()
    for sight in (Sight(suspected=["x"]), Sight(passing=["away"]), Sight(suspected=["x"]), Sight()) * 3:
        world.sight = sight
        world.look()


def failing(seen: Slot | None, *broken: str) -> Sight:
    """A failed connector beside this slot."""
    return Sight(broken=list(broken), slot=seen, failed="its database was away")


def test_a_failed_connector_is_started_again_ever_more_rarely() -> None:
    """An hour of failing takes a dozen restarts or so, and the count is exported."""
    world = World()
    world.sight = failing(slot())
    for _ in range(360):
        world.now += 10
        world.look()
    assert 10 <= world.restarts <= 20
    assert world.dog.gauges()["cdc_connector_restarts_total"] == world.restarts


@pytest.mark.parametrize(
    "sight", [lambda: failing(None), lambda: failing(slot(), "advanced")], ids=["unseen", "broken"]
)
def test_a_connector_is_left_alone_beside_a_slot_that_is_not_known_to_be_good(
    sight: Callable[[], Sight],
) -> None:
    """It might go on from the wrong place."""
    world = World()
    world.sight = sight()
    for _ in range(20):
        world.now += 1000
        with suppress(StoppedError):
            world.look()
    assert world.restarts == 0


def test_a_look_that_hangs_leaves_no_old_numbers() -> None:
    """The source is stopped, or behind a lock: what was seen holds for some looks, and then it is not told."""
    world = World()
    world.sight = Sight(gauges={"cdc_slot_active": 1.0})
    world.look()
    world.goes_on.clear()
    hanging = world.looks + 1

    def hangs() -> bool:
        world.dog.step()
        return world.looks >= hanging

    wait_until(hangs, "a look hangs")
    world.now += OLD_LOOKS * EVERY_S
    world.dog.step()
    assert world.dog.gauges()["cdc_slot_active"] == 1.0
    world.now += OLD_LOOKS * SLOW_LOOK_S
    world.dog.step()
    assert world.dog.gauges() == {"cdc_connector_restarts_total": 0}
    world.goes_on.set()
    world.look()
    assert world.dog.gauges()["cdc_slot_active"] == 1.0
