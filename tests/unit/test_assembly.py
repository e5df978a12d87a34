"""Rows still arriving: each is released once, whole and soon, and what is held is never passed by an offset."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdc_consumer.assembly import Assembly, Clock, HoldLimits
from tests.narrow_batches import narrow_batch

HOLD_MS, MAX_HOLD_MS = 200, 5_000
MOMENT_US = 15_000_000
HOUR_OF_MOMENTS = 240


def assembly(max_events: int = 1_000_000, max_bytes: int = 1 << 30, hold_ms: float = HOLD_MS) -> Assembly:
    """An empty assembly with the default times."""
    return Assembly(HoldLimits(hold_ms, MAX_HOLD_MS, max_events, max_bytes))


def live(now_ms: float) -> dict[int, Clock]:
    """Clocks of partitions that are read to their end."""
    return {partition: Clock(now_ms, 0, caught_up=True) for partition in range(4)}


def behind(now_ms: float, record_ms: float) -> dict[int, Clock]:
    """Clocks of partitions that have more to read."""
    return {partition: Clock(now_ms, record_ms, caught_up=False) for partition in range(4)}


class Stream:
    """Makes samples with offsets that count up per partition, as Kafka does."""

    def __init__(self) -> None:
        self._offsets = dict.fromkeys(range(4), 0)

    def samples(
        self, cells: Sequence[tuple[str, int, str]], partition: int = 0, **more: Any
    ) -> list[dict[str, Any]]:
        """One sample for each (ship, moment, channel)."""
        first = self._offsets[partition]
        self._offsets[partition] += len(cells)
        names = ("ship_id", "created_time", "channel_id", "offset")
        return [
            {**dict(zip(names, (*cell, first + i), strict=True)), "partition": partition, **more}
            for i, cell in enumerate(cells)
        ]

    def batch(self, cells: Sequence[tuple[str, int, str]], partition: int = 0, **more: Any) -> pa.RecordBatch:
        """The same as a batch."""
        return narrow_batch(self.samples(cells, partition, **more))


def row(channels: int, moment: int = 0, ship: str = "SHIP1", first: int = 0) -> list[tuple[str, int, str]]:
    """The cells of a row, or of a part of it."""
    return [(ship, moment, f"channel/{first + i}") for i in range(channels)]


def rows_in(batch: pa.RecordBatch) -> Counter[tuple[str, int]]:
    """How many samples of each row are in a batch."""
    return Counter(
        zip(batch.column("ship_id").to_pylist(), batch.column("created_time").to_pylist(), strict=True)
    )


def offsets(batch: pa.RecordBatch) -> list[int]:
    """The offsets of a batch, in its order."""
    found: list[int] = batch.column("offset").to_pylist()
    return found


def taught(channels: int, stream: Stream, **limits: Any) -> Assembly:
    """An assembly that has seen one whole row of SHIP1, and holds nothing."""
    held = assembly(**limits)
    held.add(stream.batch(row(channels, moment=-1)), live(0))
    assert held.take(live(HOLD_MS)).num_rows == channels
    return held


# -- when a row is ready ----------------------------------------------------------------------------------


def test_a_row_is_held_until_nothing_came_for_hold_ms() -> None:
    """Quiet is measured from the last sample, not from the first."""
    held, stream = assembly(), Stream()
    held.add(stream.batch(row(3)), live(0))
    held.add(stream.batch(row(3, first=3)), live(150))
    assert held.take(live(349)).num_rows == 0
    assert rows_in(held.take(live(350))) == {("SHIP1", 0): 6}
    assert (held.held_rows, held.held_events, held.held_bytes) == (0, 0, 0)


def test_while_behind_record_time_decides_and_the_wall_does_not() -> None:
    """During a catch-up a slow reader must not mistake its own slowness for a quiet ship."""
    held, stream = assembly(), Stream()
    held.add(stream.batch(row(3)), behind(0, record_ms=7_000))
    assert held.take(behind(MAX_HOLD_MS - 1, record_ms=7_000 + HOLD_MS - 1)).num_rows == 0
    assert held.take(behind(MAX_HOLD_MS - 1, record_ms=7_000 + HOLD_MS)).num_rows == 3


def test_a_row_never_waits_for_ever_though_record_time_stands_still() -> None:
    """Control records at a partition's end keep it from ever looking caught up."""
    held, stream = assembly(), Stream()
    held.add(stream.batch(row(3)), behind(0, record_ms=7_000))
    assert held.take(behind(MAX_HOLD_MS, record_ms=7_000)).num_rows == 3


def test_a_row_that_never_falls_quiet_is_released_after_max_hold_ms() -> None:
    """One cell every 100 ms: the row is written when it is 5 s old."""
    held, stream = assembly(), Stream()
    released = {}
    for now_ms in range(0, MAX_HOLD_MS + 100, 100):
        held.add(stream.batch(row(1, first=now_ms)), live(now_ms))
        released[now_ms] = held.take(live(now_ms)).num_rows
    assert {now_ms: n for now_ms, n in released.items() if n} == {MAX_HOLD_MS: MAX_HOLD_MS // 100 + 1}


def test_a_hold_longer_than_max_hold_is_cut_to_it() -> None:
    """The bound on age holds for silent rows too."""
    held, stream = assembly(hold_ms=60_000), Stream()
    held.add(stream.batch(row(3)), live(0))
    assert held.take(live(MAX_HOLD_MS)).num_rows == 3


def test_a_row_as_full_as_usual_is_released_at_once() -> None:
    """A complete row does not pay the hold time."""
    stream = Stream()
    held = taught(10, stream)
    held.add(stream.batch(row(9)), live(1_000))
    assert held.take(live(1_000)).num_rows == 0
    held.add(stream.batch(row(1, first=9)), live(1_001))
    assert rows_in(held.take(live(1_001))) == {("SHIP1", 0): 10}


def test_fullness_is_each_ships_own() -> None:
    """A small ship's rows say nothing about a large ship's."""
    stream = Stream()
    held = taught(2, stream)
    held.add(stream.batch(row(2, ship="SHIP2")), live(1_000))
    assert held.take(live(1_000)).num_rows == 0


@pytest.mark.parametrize("moment", [-(2**52), 0, 2**52], ids=["long past", "1970", "far future"])
def test_created_time_decides_nothing(moment: int) -> None:
    """Clocks of ships jump: a row from any year is held and released like all others."""
    held, stream = assembly(), Stream()
    held.add(stream.batch(row(3, moment=moment) + row(3, moment=5)), live(0))
    assert held.take(live(HOLD_MS - 1)).num_rows == 0
    assert held.take(live(HOLD_MS)).num_rows == 6


# -- usual fullness -----------------------------------------------------------------------------------------


def burst(
    held: Assembly, stream: Stream, reads: int, moment: int, now_ms: float
) -> list[Counter[tuple[str, int]]]:
    """A row of 100 cells that arrives in several reads; what each take releases, the quiet one included."""
    cells = row(100, moment=moment)
    takes = []
    for i, part in enumerate(np.array_split(np.arange(100), reads)):
        held.add(stream.batch([cells[k] for k in part]), live(now_ms + i))
        takes.append(rows_in(held.take(live(now_ms + i))))
    takes.append(rows_in(held.take(live(now_ms + reads + HOLD_MS))))
    return [take for take in takes if take]


def test_fragments_do_not_teach_that_rows_are_small() -> None:
    """After many late single cells a row may come out in two pieces, once; the next one is whole again."""
    stream = Stream()
    held = taught(100, stream)
    for late in range(300):
        held.add(stream.batch(row(1, moment=1_000 + late)), live(late * 1_000))
        held.take(live(late * 1_000 + HOLD_MS))
    assert burst(held, stream, reads=10, moment=1, now_ms=900_000) == [
        {("SHIP1", 1): 10},
        {("SHIP1", 1): 90},
    ]
    assert burst(held, stream, reads=10, moment=2, now_ms=960_000) == [{("SHIP1", 2): 100}]


def test_a_few_late_cells_change_nothing() -> None:
    """Stragglers of old rows come between the bursts all the time."""
    stream = Stream()
    held = taught(100, stream)
    for minute in range(1, 20):
        now_ms = minute * 60_000
        held.add(stream.batch(row(1, moment=minute * 1_000)), live(now_ms - 1_000))
        assert held.take(live(now_ms - 1_000 + HOLD_MS)).num_rows == 1
        assert burst(held, stream, reads=10, moment=minute, now_ms=now_ms) == [{("SHIP1", minute): 100}]


def test_channels_that_fall_silent_are_forgotten() -> None:
    """Rows of 60 instead of 100 cells pay the hold time for a while, and then no more."""
    stream = Stream()
    held = taught(100, stream)
    at_once = []
    for moment in range(60):
        now_ms = 10_000 * (moment + 1)
        held.add(stream.batch(row(60, moment=moment)), live(now_ms))
        at_once.append(held.take(live(now_ms)).num_rows == 60)
        held.take(live(now_ms + HOLD_MS))
    assert at_once == sorted(at_once), "once it is learned, it stays learned"
    assert (at_once[0], at_once[-1]) == (False, True)


def test_a_late_cell_of_a_full_row_merges_after_the_hold() -> None:
    """More of a row that was full: it waits until it is quiet, and the samples stay together."""
    stream = Stream()
    held = taught(10, stream)
    held.add(stream.batch(row(10)), live(1_000))
    assert held.take(live(1_000)).num_rows == 10
    held.add(stream.batch(row(2, first=10)), live(1_050))
    assert held.take(live(1_050)).num_rows == 0
    assert held.take(live(1_050 + HOLD_MS)).num_rows == 2


def test_what_is_read_again_does_not_count_twice() -> None:
    """After an outage the same rows come again; that does not make rows twice as full."""
    stream = Stream()
    held = taught(10, stream)
    held.add(stream.batch(row(10)), live(1_000))
    assert held.take(live(1_000)).num_rows == 10
    held.drop([0])
    held.add(stream.batch(row(10)), live(1_100))
    assert held.take(live(1_100)).num_rows == 10


# -- bursts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["channel-major", "moment-major"])
@pytest.mark.parametrize("read_events", [7, 1_000, 100_000])
def test_an_hour_of_moments_is_released_row_by_row_whole(order: str, read_events: int) -> None:
    """A ship that comes back sends 240 moments; in either order each row is written once."""
    stream, channels = Stream(), 12
    moments = [i * MOMENT_US for i in range(HOUR_OF_MOMENTS)]
    by_moment = list(itertools.product(["SHIP1"], moments, [f"channel/{c}" for c in range(channels)]))
    cells = by_moment if order == "moment-major" else sorted(by_moment, key=lambda cell: cell[2])
    held, released = taught(channels, stream), Counter[tuple[str, int]]()
    for read, start in enumerate(range(0, len(cells), read_events)):
        now_ms = 1_000 + read * 0.5
        held.add(stream.batch(cells[start : start + read_events]), live(now_ms))
        taken = rows_in(held.take(live(now_ms)))
        assert set(taken.values()) <= {channels}, "only whole rows leave"
        released += taken
    assert released == {("SHIP1", moment): channels for moment in moments}


# -- bounds ------------------------------------------------------------------------------------------------


def test_the_bound_on_events_releases_the_least_recently_touched_first() -> None:
    """Under pressure those rows leave that are most likely complete; the freshest stay."""
    held, stream = assembly(max_events=25), Stream()
    for moment in range(3):
        held.add(stream.batch(row(10, moment=moment)), live(moment))
    held.add(stream.batch(row(5, moment=0, first=10)), live(3))
    assert rows_in(held.take(live(4))) == {("SHIP1", 1): 10}
    assert held.held_events == 25


def test_the_least_recently_touched_is_found_across_partitions() -> None:
    """The bound is one for the process, whatever partition a row belongs to."""
    held, stream = assembly(max_events=10), Stream()
    held.add(stream.batch(row(10, ship="SHIP2"), partition=1), live(0))
    held.add(stream.batch(row(10), partition=0), live(1))
    assert rows_in(held.take(live(2))) == {("SHIP2", 0): 10}


def test_the_bound_on_bytes_sees_one_huge_value_among_small_ones() -> None:
    """An average over all events would let a single huge one stay."""
    held, stream = assembly(max_bytes=100_000), Stream()
    held.add(stream.batch(row(500, moment=0)), live(0))
    held.add(stream.batch(row(1, moment=1), str_v="x" * 150_000), live(1))
    held.take(live(2))
    assert held.held_bytes <= 100_000


def test_a_row_beyond_the_bounds_still_leaves_whole() -> None:
    """A bound smaller than one row releases that row, not a part of it."""
    held, stream = assembly(max_events=5), Stream()
    held.add(stream.batch(row(10)), live(0))
    assert held.take(live(0)).num_rows == 10


# -- offsets, order, partitions ---------------------------------------------------------------------------


def test_low_water_is_the_lowest_offset_held() -> None:
    """A successor that starts there reads all that was held."""
    held, stream = assembly(), Stream()
    held.add(stream.batch(row(3, moment=0)), live(0))
    held.add(stream.batch(row(3, moment=1) + row(1, moment=0, first=3)), live(100))
    assert held.low_water(0) == 0
    assert offsets(held.take(live(250))) == []
    held.add(stream.batch(row(1, moment=1, first=3)), live(290))
    assert offsets(held.take(live(300))) == [0, 1, 2, 6]
    assert held.low_water(0) == 3
    assert offsets(held.take(live(490))) == [3, 4, 5, 7]
    assert held.low_water(0) is None


def test_released_samples_keep_their_order() -> None:
    """The same cell written twice must end with its last value."""
    held, stream = assembly(), Stream()
    for now_ms in (0, 10, 20):
        held.add(stream.batch(row(2) + row(2)), live(now_ms))
    assert offsets(held.take(live(220))) == list(range(12))


def test_a_dropped_partition_leaves_nothing_behind() -> None:
    """Its new owner reads it again; the other partitions keep what they hold."""
    held, stream = assembly(), Stream()
    mixed = stream.samples(row(3), 0) + stream.samples(row(4, ship="SHIP2"), 1)
    held.add(narrow_batch(mixed), live(0))
    held.add(stream.batch(row(2, ship="SHIP3"), partition=2), live(0))
    held.drop([0, 2])
    assert [held.low_water(partition) for partition in range(3)] == [None, 0, None]
    assert (held.held_rows, held.held_events) == (1, 4)
    assert rows_in(held.take(live(HOLD_MS))) == {("SHIP2", 0): 4}


def test_rows_that_come_after_a_drop_are_not_mixed_up_with_older_ones() -> None:
    """Row numbers are used again: a new row must not take an older one's samples along."""
    held, stream = assembly(), Stream()
    held.add(stream.batch(row(1, moment=0)), live(0))
    held.add(stream.batch(row(1, ship="SHIP2"), partition=1), live(150))
    held.drop([0])
    held.add(stream.batch(row(1, ship="SHIP3", moment=9), partition=2), live(0))
    assert rows_in(held.take(live(HOLD_MS))) == {("SHIP3", 9): 1}
    assert rows_in(held.take(live(150 + HOLD_MS))) == {("SHIP2", 0): 1}


def test_a_ship_in_two_partitions_is_held_per_partition() -> None:
    """After an unplanned change of the partition count: nothing sticks when one of them is revoked."""
    held, stream = assembly(), Stream()
    held.add(narrow_batch(stream.samples(row(3), 0) + stream.samples(row(2), 1)), live(0))
    assert (held.low_water(0), held.low_water(1)) == (0, 0)
    held.drop([1])
    assert (held.low_water(0), held.low_water(1)) == (0, None)
    assert rows_in(held.take(live(HOLD_MS))) == {("SHIP1", 0): 3}
    assert (held.held_rows, held.held_events) == (0, 0)


def test_take_all_releases_ready_or_not() -> None:
    """Before a stop at a truncate, all that was read is applied."""
    held, stream = assembly(), Stream()
    held.add(stream.batch(row(3) + row(2, moment=1)), live(0))
    assert offsets(held.take_all()) == [0, 1, 2, 3, 4]
    assert held.take_all().num_rows == 0
    assert held.low_water(0) is None


def test_an_empty_batch_is_nothing() -> None:
    """A read of filtered records only."""
    held = assembly()
    held.add(narrow_batch([]), live(0))
    taken = held.take(live(10_000))
    assert (taken.num_rows, taken.schema) == (0, narrow_batch([]).schema)


def test_a_row_that_was_ready_when_its_partition_went_is_forgotten() -> None:
    """It was marked ready between two takes; the next take must not look for it."""
    held, stream = assembly(), Stream()
    for now_ms in (0, MAX_HOLD_MS):
        held.add(stream.batch(row(1)), behind(now_ms, now_ms))
    held.drop([0])
    held.add(stream.batch(row(1, moment=1)), live(MAX_HOLD_MS))
    assert held.take(live(MAX_HOLD_MS)).num_rows == 0
    assert held.held_rows == 1
