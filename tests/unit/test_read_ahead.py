"""What a consumer's client fetches in advance is bounded per process, however many partitions it is given."""

from __future__ import annotations

import pytest

from cdc_consumer.source import LEAST_READ_AHEAD_KB, READ_AHEAD_KB, read_ahead


@pytest.mark.parametrize("partitions", [1, 4, 12])
def test_all_partitions_together_stay_within_the_bound(partitions: int) -> None:
    """Librdkafka's own limit is per partition: one process may be given all of them."""
    assert read_ahead(partitions)["queued.max.messages.kbytes"] * partitions <= READ_AHEAD_KB


def test_a_partition_among_very_many_still_has_a_fetch_in_hand() -> None:
    """Else it would wait for each of them."""
    assert read_ahead(240)["queued.max.messages.kbytes"] == LEAST_READ_AHEAD_KB
