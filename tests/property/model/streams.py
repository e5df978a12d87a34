"""Long random streams of one cell, legal per cell: lives, epochs, resyncs, corrections, repeated suffixes."""

from __future__ import annotations

import random

from tests.property.model.cell import Event
from widetable.narrow import Op

VERSIONED = (Op.UPDATE, Op.RESYNC, Op.CORRECTION)


def random_stream(
    rng: random.Random, length: int, *, epochs: int = 2, values: int = 1_000, missing: float = 0.0
) -> list[Event]:
    """Changes of one cell in commit order, with rising versions; a second epoch begins with a resync.

    While the source has no sample, each event is a correction with the probability `missing`.
    """
    events: list[Event] = []
    epoch, lsn, present = 1, 0, False
    value: str | None = None
    while len(events) < length:
        lsn += rng.randint(1, 5)
        fresh = rng.choice([None, *(f"v{rng.randrange(values)}" for _ in range(4))])
        if epoch < epochs and rng.random() < 2 / length:
            epoch, lsn = epoch + 1, 0
            present = present and rng.random() < 0.5
            value = fresh if present else None
            events.append(Event(Op.RESYNC, (epoch, 0), value))
        elif not present and missing and rng.random() < missing:
            events.append(Event(Op.CORRECTION, (epoch, lsn), fresh))  # the source may insert the sample later
        elif not present:
            present, value = True, fresh
            events.append(Event(Op.CREATE, (epoch, lsn), value))
        elif rng.random() < 0.3:
            present, value = False, None
            events.append(Event(Op.DELETE, (epoch, lsn)))
        else:
            value = fresh
            op = Op.CORRECTION if rng.random() < 0.1 else Op.UPDATE
            events.append(Event(op, (epoch, lsn), value))
    return events


def delivered(rng: random.Random, events: list[Event], jumps: int = 2) -> list[Event]:
    """The stream as it arrives: now and then it jumps back and repeats all from there."""
    arrived: list[Event] = []
    position = 0
    jumps_left = rng.randint(0, jumps)
    while position < len(events):
        arrived.append(events[position])
        position += 1
        if jumps_left and rng.random() < 0.2:
            jumps_left -= 1
            position = rng.randrange(position)
    if jumps_left:
        arrived += events[rng.randrange(len(events)) :] if events else []
    return arrived


def batches(rng: random.Random, events: list[Event], largest: int = 6) -> list[list[Event]]:
    """Arrived events, cut into batches of random size; some are empty."""
    found, position = [], 0
    while position < len(events):
        size = rng.randint(0, largest)
        found.append(events[position : position + size])
        position += size
    return found


def interleaving(rng: random.Random, parts: list[list[Event]]) -> list[int]:
    """A random order across cells that keeps the order within each: which cell comes next."""
    order = [i for i, part in enumerate(parts) for _ in part]
    rng.shuffle(order)
    return order
