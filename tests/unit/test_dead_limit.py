"""The limit on dead records: a few pass, a broken stream stops the program with the way past it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from cdc_consumer.dead_limit import DeadLimit
from widetable.errors import ExitCode, StoppedError
from widetable.narrow import DeadCell


def dead(offsets: Iterable[int], partition: int = 0) -> list[DeadCell]:
    """One dead record per offset."""
    return [DeadCell("not_avro", "no Confluent frame", partition, offset) for offset in offsets]


def limit(in_a_row: int = 10, share: float = 0.01, window: int = 1_000) -> DeadLimit:
    """A limit with small numbers."""
    return DeadLimit(in_a_row, share, window)


def test_a_run_of_dead_records_stops_the_consumer() -> None:
    """The message shows the last one and the setting that lets them pass; a supervisor must not loop."""
    with pytest.raises(
        StoppedError, match=r"10 records in a row .*not_avro.*offset 16.*DEAD_IN_A_ROW"
    ) as stop:
        limit().count(500, dead(range(7, 17)))
    assert stop.value.exit_code is ExitCode.STOPPED


def test_one_less_than_the_limit_passes() -> None:
    """Nine of ten in a row are diverted."""
    limit().count(500, dead(range(9)))


def test_a_run_goes_on_over_batches() -> None:
    """A consumer that reads small batches sees the same run."""
    counting = limit()
    for offset in range(9):
        counting.count(1, dead([offset]))
    with pytest.raises(StoppedError, match="10 records in a row"):
        counting.count(1, dead([9]))


def test_a_good_record_ends_a_run() -> None:
    """Offset 9 was fine, so two runs of nine are no run of eighteen."""
    counting = limit()
    counting.count(20, dead([*range(9), *range(10, 19)]))
    counting.count(1, [])
    counting.count(9, dead(range(20, 29)))


def test_runs_are_counted_per_partition() -> None:
    """Two partitions with nine each are not eighteen in a row, though they arrive interleaved."""
    counting = limit()
    counting.count(18, [cell for o in range(9) for cell in (*dead([o], 0), *dead([o], 1))])
    with pytest.raises(StoppedError, match="partition 1"):
        counting.count(1, dead([9], partition=1))


def test_several_dead_cells_of_one_record_are_one_record_in_a_row() -> None:
    """A key change that is refused leaves two dead cells at one offset."""
    limit().count(500, dead([offset for offset in range(9) for _ in range(2)]))


def test_records_read_again_after_an_outage_are_not_a_longer_run() -> None:
    """The same nine offsets, read three times, stay nine."""
    counting = limit()
    for _ in range(3):
        counting.count(9, dead(range(9)))


def test_a_share_of_dead_records_stops_the_consumer() -> None:
    """More than 1 % of the window, though no two of them are in a row."""
    counting = limit()
    counting.count(500, dead(range(0, 10, 2)))
    with pytest.raises(StoppedError, match=r"11 of the last 1000 records are dead.*DEAD_SHARE"):
        counting.count(500, dead(range(500, 512, 2)))


def test_exactly_the_share_passes() -> None:
    """1 % is allowed, more is not."""
    limit().count(1_000, dead(range(0, 20, 2)))


def test_the_share_waits_for_a_full_window() -> None:
    """One dead record among the first ten is no trend."""
    limit().count(10, dead([3]))


def test_old_batches_leave_the_window() -> None:
    """Ten dead records an hour ago and ten now are not twenty of the last thousand."""
    counting = limit()
    counting.count(1_000, dead(range(0, 20, 2)))
    for batch in range(1, 3):
        counting.count(500, dead(range(batch * 1_000, batch * 1_000 + 10, 2)))


def test_the_window_holds_at_least_the_records_that_the_setting_names() -> None:
    """Dropping the oldest batch must not leave fewer than the window to judge by."""
    counting = limit()
    counting.count(900, dead(range(0, 18, 2)))
    with pytest.raises(StoppedError, match="20 of the last 1800"):
        counting.count(900, dead(range(900, 922, 2)))


def test_a_limit_that_trips_without_a_new_dead_record_still_says_why() -> None:
    """The window fills up with a good batch after a bad start."""
    counting = limit()
    counting.count(999, dead(range(0, 40, 2)))
    with pytest.raises(StoppedError, match="20 of the last 1000 records are dead"):
        counting.count(1, [])
