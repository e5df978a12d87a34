"""How late a partition is: as its first record that is not applied, and never because a ship is silent."""

from __future__ import annotations

from cdc_consumer.lateness import Lateness


def test_the_first_record_that_waits_tells() -> None:
    """Of three reads the first is applied: the second counts from its own time in Kafka."""
    late = Lateness()
    for offset, record_ms in ((0, 1_000), (10, 2_000), (20, 3_000)):
        late.read(offset, record_ms)
    assert late.seconds(30, 5_000) == 4.0
    late.applied(10, 30)
    assert late.seconds(20, 5_000) == 3.0
    late.applied(15, 30)  # within the second read: it is as old as its first record
    assert late.seconds(15, 5_000) == 3.0


def test_nothing_waits_when_all_is_applied() -> None:
    """Hours of silence afterwards count for nothing."""
    late = Lateness()
    late.read(0, 1_000)
    late.applied(10, 10)
    assert late.seconds(0, 9_000_000) == 0.0


def test_what_is_not_read_yet_is_as_old_as_the_first_look() -> None:
    """Its time in Kafka is not known; a consumer that can't read at all is seen to be late all the same."""
    late = Lateness()
    assert late.seconds(5, 10_000) == 0.0
    assert late.seconds(5, 70_000) == 60.0
    late.read(0, 8_000)
    assert late.seconds(5, 70_000) == 62.0
    late.applied(5, 5)
    assert late.seconds(3, 80_000) == 0.0


def test_a_partition_given_up_goes_on_waiting() -> None:
    """An outage of the target does not make it punctual, and reading it again does not make it younger."""
    late = Lateness()
    late.read(0, 1_000)
    again = late.given_up()
    assert again.seconds(1, 61_000) == 60.0
    again.read(0, 1_000)
    assert again.seconds(1, 62_000) == 61.0


def test_clocks_that_disagree_make_nothing_negative() -> None:
    """Kafka's clock may be ahead of ours."""
    late = Lateness()
    late.read(0, 5_000)
    assert late.seconds(1, 4_000) == 0.0
