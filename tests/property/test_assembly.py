"""Whatever comes in whatever order: nothing is lost in assembly, nothing leaves twice, no offset is passed."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_consumer.assembly import Assembly, Clock, HoldLimits
from tests.narrow_batches import narrow_batch

PARTITIONS, SHIPS, MOMENTS, CHANNELS = 3, 5, 4, 3
LIMITS = HoldLimits(hold_ms=200, max_hold_ms=1_000, max_events=12, max_bytes=2_500)
WIDE_LIMITS = HoldLimits(hold_ms=200, max_hold_ms=5_000, max_events=10_000, max_bytes=1 << 30)


@dataclass(frozen=True)
class Read:
    """A batch from Kafka: (ship, moment, channel, bytes of its value) each."""

    cells: list[tuple[int, int, int, int]]


@dataclass(frozen=True)
class Wait:
    """Time goes by: on the wall, and in Kafka's records, where it may stand still or go back."""

    wall_ms: int
    record_ms: int
    caught_up: bool


@dataclass(frozen=True)
class Revoke:
    """A partition is given away and comes back: it is read again from its lowest held offset."""

    partition: int


CELLS = st.tuples(
    st.integers(0, SHIPS - 1),
    st.integers(0, MOMENTS - 1),
    st.integers(0, CHANNELS - 1),
    st.sampled_from([1, 1, 1, 900]),
)
READS = st.builds(Read, st.lists(CELLS, max_size=15))
WAITS = st.builds(Wait, st.integers(0, 1_200), st.integers(-500, 1_200), st.booleans())
STEPS = st.lists(st.one_of(READS, WAITS, st.builds(Revoke, st.integers(0, PARTITIONS - 1))), max_size=25)


class World:
    """A topic, an assembly that reads it, and the book that is kept on both."""

    def __init__(self, *, ships_stay: bool) -> None:
        self.assembly = Assembly(LIMITS)
        self.ships_stay = ships_stay  # each ship in one partition, as the Kafka key makes it
        self.wall_ms = self.record_ms = 0
        self.caught_up = True
        self.topic: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
        self.held: list[set[int]] = [set() for _ in range(PARTITIONS)]
        self.released: list[list[int]] = [[] for _ in range(PARTITIONS)]  # since the last revocation
        self.start = [0] * PARTITIONS  # where reading began after the last revocation
        self.position = [0] * PARTITIONS

    def clocks(self) -> dict[int, Clock]:
        """The same time in every partition."""
        clock = Clock(self.wall_ms, self.record_ms, self.caught_up)
        return dict.fromkeys(range(PARTITIONS), clock)

    def read(self, cells: Sequence[tuple[int, int, int, int]]) -> None:
        """New records arrive, and are read behind those that a revocation left unread."""
        for i, (ship, moment, channel, size) in enumerate(cells):
            partition = (ship if self.ships_stay else ship + i) % PARTITIONS
            self.topic[partition].append(
                {
                    "ship_id": f"SHIP{ship}",
                    "created_time": moment,
                    "channel_id": f"channel/{channel}",
                    "str_v": "x" * size,
                    "partition": partition,
                    "offset": 2 * len(self.topic[partition]),  # gaps are legal
                }
            )
        samples = []
        for partition, records in enumerate(self.topic):
            unread = records[self.position[partition] :]
            self.position[partition] = len(records)
            self.held[partition] |= {sample["offset"] for sample in unread}
            samples += unread
        self.assembly.add(narrow_batch(samples), self.clocks())

    def revoke(self, partition: int) -> None:
        """Read on where the ledger would stand."""
        low = self.assembly.low_water(partition)
        self.assembly.drop([partition])
        if low is not None:
            self.position[partition] = low // 2
        self.start[partition] = self.position[partition]
        self.held[partition], self.released[partition] = set(), []

    def take(self) -> None:
        """Release, and check what is released against the book."""
        self.settle(self.assembly.take(self.clocks()).to_pylist())
        assert self.assembly.held_events <= LIMITS.max_events
        assert self.assembly.held_bytes <= LIMITS.max_bytes

    def settle(self, samples: list[dict[str, Any]]) -> None:
        """Each released sample was held, is what was read, and leaves nothing of its row behind."""
        for sample in samples:
            partition, offset = sample["partition"], sample["offset"]
            assert offset in self.held[partition], "never read, or released before"
            original = self.topic[partition][offset // 2]
            assert {name: sample[name] for name in original} == original
            self.held[partition].remove(offset)
            self.released[partition].append(offset)
        left = {row for row, _ in self.held_rows()}
        assert not left & {row_of(sample) for sample in samples}, "a row is released whole or not at all"

    def held_rows(self) -> list[tuple[tuple[int, str, int], int]]:
        """The rows held, by the book."""
        samples = [self.topic[p][offset // 2] for p, offsets in enumerate(self.held) for offset in offsets]
        return list(Counter(map(row_of, samples)).items())

    def check(self) -> None:
        """What must hold at every moment."""
        for partition, held in enumerate(self.held):
            assert self.assembly.low_water(partition) == min(held, default=None)
            read = range(2 * self.start[partition], 2 * self.position[partition], 2)
            assert sorted([*held, *self.released[partition]]) == list(read), "lost or doubled"
        assert self.assembly.held_events == sum(map(len, self.held))
        assert self.assembly.held_rows == len(self.held_rows())
        self.check_order()

    def check_order(self) -> None:
        """Per cell, samples leave in the order in which they came."""
        for partition, offsets in enumerate(self.released):
            last: defaultdict[tuple[object, ...], int] = defaultdict(lambda: -1)
            for offset in offsets:
                sample = self.topic[partition][offset // 2]
                cell = (*row_of(sample), sample["channel_id"])
                assert offset > last[cell]
                last[cell] = offset


def row_of(sample: dict[str, Any]) -> tuple[int, str, int]:
    """The row that a sample belongs to; a ship in two partitions has two."""
    return (sample["partition"], sample["ship_id"], sample["created_time"])


@given(STEPS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost_doubled_reordered_or_passed(
    steps: list[Read | Wait | Revoke], ships_stay: bool
) -> None:
    """Reads, silences, clocks that stand still or go back, revocations: the book always balances."""
    world = World(ships_stay=ships_stay)
    for step in steps:
        match step:
            case Read(cells):
                world.read(cells)
            case Wait(wall_ms, record_ms, caught_up):
                world.wall_ms += wall_ms
                world.record_ms += record_ms
                world.caught_up = caught_up
            case Revoke(partition):
                world.revoke(partition)
        world.check()
        world.take()
        world.check()
    world.settle(world.assembly.take_all().to_pylist())
    world.check()
    assert not any(world.held)


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_silence_releases_everything(steps: list[Read | Wait | Revoke]) -> None:
    """Nothing is held for longer than `max_hold_ms` on the wall, whatever Kafka's record times say."""
    world = World(ships_stay=True)
    for step in steps:
        match step:
            case Read(cells):
                world.read(cells)
            case Wait(wall_ms, record_ms, caught_up):
                world.wall_ms += wall_ms
                world.record_ms += record_ms
                world.caught_up = caught_up
            case Revoke():
                pass
        world.take()
    world.wall_ms += int(LIMITS.max_hold_ms)
    world.take()
    assert (world.assembly.held_rows, world.assembly.held_events) == (0, 0)


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from(["channel-major", "moment-major", "shuffled"]),
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_a_burst_is_written_row_by_row_whole(
    ships: int, moments: int, channels: int, order: str, reads: list[int], random: Any
) -> None:
    """However a burst is ordered and cut into reads: each row leaves once, with all its cells.

    The burst before it taught the ships' fullness; reads follow each other faster than the hold.
    """
    held, sizes = Assembly(WIDE_LIMITS), itertools.chain(reads, itertools.repeat(60))
    for number, now_ms in ((0, 0.0), (1, 60_000.0)):
        cells = cells_of_burst(ships, range(number * moments, (number + 1) * moments), channels)
        if order == "channel-major":
            cells.sort(key=lambda cell: (cell[0], cell[2]))
        elif order == "shuffled":
            random.shuffle(cells)
        released = [rows for rows in pass_through(held, cells, sizes, now_ms) if rows]
        assert sum(released, Counter()) == Counter(cell[:2] for cell in cells)
        assert sum(len(rows) for rows in released) == ships * moments, "a row left in two pieces"


def cells_of_burst(ships: int, moments: range, channels: int) -> list[tuple[str, int, str]]:
    """Every channel of every ship at every moment, moment by moment."""
    names = [f"SHIP{ship}" for ship in range(ships)]
    return [
        (name, moment, f"channel/{c}")
        for name, moment, c in itertools.product(names, moments, range(channels))
    ]


def pass_through(
    held: Assembly, cells: list[tuple[str, int, str]], sizes: Any, now_ms: float
) -> list[Counter[tuple[str, int]]]:
    """Read the cells in portions, a millisecond apart; the rows of each take, the quiet one at last."""
    takes, start = [], 0
    while start < len(cells):
        size = next(sizes)
        samples = [
            {"ship_id": ship, "created_time": moment, "channel_id": channel, "offset": start + i}
            for i, (ship, moment, channel) in enumerate(cells[start : start + size])
        ]
        start, now_ms = start + size, now_ms + 1
        clocks = {0: Clock(now_ms, 0, caught_up=True)}
        held.add(narrow_batch(samples), clocks)
        takes.append(held.take(clocks))
    takes.append(held.take({0: Clock(now_ms + WIDE_LIMITS.hold_ms, 0, caught_up=True)}))
    return [
        Counter((sample["ship_id"], sample["created_time"]) for sample in take.to_pylist()) for take in takes
    ]
