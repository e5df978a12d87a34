"""How `repartition` empties the old partitions: to the ends that they had when the reader went, and no further."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cdc_consumer import repartition
from cdc_consumer.deployment import Deployment
from cdc_consumer.slot import Slot
from tests.unit.test_health import HAND_OFF, SLOT
from widetable.errors import UnreachableError
from widetable.hand_off import LedgerRow

SILENT = replace(SLOT, active_pid=None)
LOOKS = 1_000
"""A drain that looks more often than that does not end."""


class Chain:
    """Two partitions to which somebody goes on writing, and consumers that follow one record a look.

    Args:
        slots: what the looks at the slot find, one after the other; the last is repeated.
        stuck: partitions that nobody reads.
    """

    def __init__(self, *slots: Slot, stuck: tuple[int, ...] = ()) -> None:
        self._slots = list(slots)
        self._stuck = stuck
        self.ends = {0: 5, 1: 3}
        self.positions = {0: 0, 1: 0}
        self.asked: list[dict[int, int]] = []
        self.looks = 0

    def read_slot(self, *_: object) -> Slot:
        """The next look; time and writers go on."""
        self.looks += 1
        assert self.looks < LOOKS, "the drain does not end"
        self.ends = {number: end + 1 for number, end in self.ends.items()}
        return self._slots.pop(0) if len(self._slots) > 1 else self._slots[0]

    def end_offsets(self, *_: object) -> dict[int, int]:
        """As of now."""
        self.asked.append(dict(self.ends))
        return dict(self.ends)

    def read_ledger(self, *_: object) -> list[LedgerRow]:
        """One record further, never beyond what there is."""
        for number in self.positions.keys() - set(self._stuck):
            self.positions[number] = min(self.positions[number] + 1, self.ends[number])
        return [LedgerRow(number, at, None, datetime.now(UTC)) for number, at in self.positions.items()]


def drain(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drain both partitions of this chain."""
    monkeypatch.setattr(repartition, "read_slot", chain.read_slot)
    monkeypatch.setattr(repartition, "read_ledger", chain.read_ledger)
    clock = SimpleNamespace(monotonic=lambda: chain.looks, sleep=lambda _: None)  # a look takes a second
    monkeypatch.setattr(repartition, "time", clock)
    deployment: Any = SimpleNamespace(source=None, target=None, topics=chain)
    repartition._drain(cast("Deployment", deployment), HAND_OFF, [0, 1], 60.0)


def test_whoever_else_writes_can_not_keep_the_stream_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends are those of the moment when the reader was gone, although they move on."""
    chain = Chain(SLOT, SLOT, SILENT)
    drain(chain, monkeypatch)
    assert chain.asked == [{0: 8, 1: 6}]
    assert chain.positions == {0: 8, 1: 8}


def test_a_connector_that_somebody_starts_meanwhile_is_waited_for_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it wrote into the old partitions must be applied, too."""
    chain = Chain(SILENT, SLOT, SLOT, SILENT)
    drain(chain, monkeypatch)
    assert chain.asked == [{0: 6, 1: 4}, {0: 9, 1: 7}]
    assert chain.positions[0] >= 9


def test_a_partition_that_nobody_reads_ends_the_wait_although_another_moves_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records beyond the ends are no progress."""
    chain = Chain(SILENT, stuck=(1,))
    with pytest.raises(UnreachableError, match=r"partitions 1 are not read to their end.*runs as before"):
        drain(chain, monkeypatch)
