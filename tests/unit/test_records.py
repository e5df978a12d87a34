"""Records as columns: positions, jumps, and cuts that keep the columns together."""

from __future__ import annotations

import numpy as np

from cdc_consumer.records import Records


def records(*places: tuple[int, int]) -> Records:
    """Records at these (partition, offset)s; key, value and time tell the place."""
    return Records(
        [f"value {place}".encode() for place in places],
        [f"key {place}".encode() for place in places],
        np.array([partition for partition, _ in places], np.int32),
        np.array([offset for _, offset in places], np.int64),
        np.array([100 * partition + offset for partition, offset in places], np.int64),
    )


def same(one: Records, other: Records) -> bool:
    """Whether all columns are equal."""
    return (one.values, one.keys) == (other.values, other.keys) and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("partitions", "offsets", "times_ms")
    )


INTERLEAVED = records((0, 5), (3, 9), (0, 6), (3, 11), (0, 7))


def test_a_position_is_the_offset_after_the_last_record() -> None:
    """Per partition, however they are interleaved."""
    assert INTERLEAVED.positions() == {0: 8, 3: 12}
    assert records().positions() == {}


def test_jumps_are_found_within_and_before_the_batch() -> None:
    """Forward and backward, each partition for itself."""
    assert INTERLEAVED.jumps({0: 5, 3: 9}) == {(3, 10, 11)}
    assert INTERLEAVED.jumps({0: 4, 3: 10}) == {(0, 4, 5), (3, 10, 9), (3, 10, 11)}
    assert records((0, 1), (0, 1)).jumps({0: 1}) == {(0, 2, 1)}
    assert records().jumps({}) == set()


def test_cuts_keep_the_columns_together() -> None:
    """What is left is the same records, in the same order."""
    assert same(INTERLEAVED.without([3]), records((0, 5), (0, 6), (0, 7)))
    assert same(INTERLEAVED.without({0, 3}), records())
    assert same(INTERLEAVED.before(0, 6), records((0, 5), (3, 9), (3, 11)))
    assert same(INTERLEAVED.before(7, 0), INTERLEAVED)
    assert len(INTERLEAVED) == 5
