"""What Kafka delivered, and which life of the slot each record belongs to.

In: messages as the source step collected them. The decoder reads keys, values and coordinates from here; an
event's version is (epoch, lsn), and the epoch follows from the coordinates alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Partitions = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Records:
    """A batch of Kafka records, one entry per record in each column, in partition order.

    Attributes:
        values: the framed Avro messages; None is a tombstone.
        keys: the framed Avro keys.
        partitions: int32, of which partition the record is.
        offsets: int64, where it stands there.
        times_ms: int64, when Kafka got it, to within one fetch; milliseconds since 1970.
    """

    values: list[bytes | None]
    keys: list[bytes | None]
    partitions: Partitions
    offsets: Offsets
    times_ms: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.offsets)

    def positions(self) -> dict[int, int]:
        """Per partition, the offset after the last record."""
        return {
            int(partition): int(self.offsets[self.partitions == partition].max()) + 1
            for partition in np.unique(self.partitions)
        }

    def jumps(self, expected: Mapping[int, int]) -> set[tuple[int, int, int]]:
        """Where offsets don't follow one another: (partition, expected, found).

        `expected` has the next offset of every partition that these records are of.
        """
        if not len(self):
            return set()
        same = self.partitions[1:] == self.partitions[:-1]
        wanted = np.empty(len(self), np.int64)
        wanted[1:] = self.offsets[:-1] + 1
        following = dict(expected)
        starts = np.concatenate([[0], np.flatnonzero(~same) + 1]).tolist()
        for start, end in zip(starts, [*starts[1:], len(self)], strict=True):  # runs of one partition: few
            partition = int(self.partitions[start])
            wanted[start] = following[partition]
            following[partition] = int(self.offsets[end - 1]) + 1
        wrong = np.flatnonzero(self.offsets != wanted)
        columns = (part[wrong].tolist() for part in (self.partitions, wanted, self.offsets))
        return set(zip(*columns, strict=True))

    def before(self, partition: int, offset: int) -> Records:
        """These records without those of `partition` from `offset` on: what a truncate leaves to apply."""
        return self._only((self.partitions != partition) | (self.offsets < offset))

    def without(self, partitions: Iterable[int]) -> Records:
        """The records of other partitions."""
        return self._only(~np.isin(self.partitions, list(partitions)))

    def _only(self, kept: npt.NDArray[np.bool_]) -> Records:
        rows = np.flatnonzero(kept).tolist()
        return Records(
            [self.values[row] for row in rows],
            [self.keys[row] for row in rows],
            self.partitions[kept],
            self.offsets[kept],
            self.times_ms[kept],
        )


class EpochOf(Protocol):
    """Finds the epoch of each record."""

    def __call__(self, partitions: Partitions, offsets: Offsets) -> npt.NDArray[np.int32]:
        """One epoch per record, from its coordinates."""
        ...


@dataclass(frozen=True, slots=True)
class Epochs:
    """The epochs of one topic: where in each partition each of them begins.

    Attributes:
        boundaries: (epoch, first offset by partition), in order of time. A partition that an epoch does not
            name goes on in the epoch before.
    """

    boundaries: tuple[tuple[int, Mapping[int, int]], ...]

    def __call__(self, partitions: Partitions, offsets: Offsets) -> npt.NDArray[np.int32]:
        """The last epoch whose boundary is at or below the record; 0, which outranks nothing, if none is."""
        epochs = np.zeros(len(offsets), np.int32)
        for epoch, first_offsets in self.boundaries:
            for partition, first_offset in first_offsets.items():
                epochs[(partitions == partition) & (offsets >= first_offset)] = epoch
        return epochs
