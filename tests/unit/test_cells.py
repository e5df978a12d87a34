"""From a `NarrowBatch` to numbered rows and channels."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.property.model.cell import Event
from tests.writer_samples import Key, Sample, narrow_batch
from widetable.cells import DENSE_ROWS_FACTOR, Events, distinct, read_events
from widetable.narrow import Op, empty_batch


def events_of(keys: list[Key]) -> Events:
    """A create of each cell."""
    samples = [Sample(key, Event(Op.CREATE, (3, lsn), f"value {lsn}")) for lsn, key in enumerate(keys)]
    batch = narrow_batch(samples)
    return read_events(batch, batch.column("str_v"))


def coordinates(events: Events) -> list[tuple[str, int, str]]:
    """What the numbers stand for, sample by sample."""
    rows = events.rows
    return [
        (rows.ships[rows.ship[row]], int(rows.moment[row]), events.channels[channel])
        for row, channel in zip(events.row, events.channel, strict=True)
    ]


def random_keys(seed: int, moments: int) -> list[Key]:
    """Cells of a few ships and channels, some of them twice."""
    rng = random.Random(seed)
    return [
        Key(rng.choice("Bbaéz"), rng.randint(-moments, moments), rng.choice(["x", "y/z", ""]))
        for _ in range(200)
    ]


@pytest.mark.parametrize("moments", [3, 10**17], ids=["aligned moments", "every moment another"])
@pytest.mark.parametrize("seed", range(5))
def test_rows_are_distinct_ascending_and_every_sample_finds_its_own(seed: int, moments: int) -> None:
    """By ship and then by moment, which is the order in which writers lock."""
    keys = random_keys(seed, moments)
    events = events_of(keys)
    assert coordinates(events) == [tuple(key) for key in keys]
    rows = events.rows
    found = [(rows.ships[ship], int(moment)) for ship, moment in zip(rows.ship, rows.moment, strict=True)]
    assert found == sorted({(key.ship, key.moment_us) for key in keys})
    assert rows.ships == tuple(sorted(rows.ships))
    assert len(events) == len(keys)
    assert len(rows) == len(found)


def test_versions_and_values_come_in_arrival_order() -> None:
    """Position by position; NULL and the empty text are not the same."""
    samples = [Sample(Key("a", 0, "x"), Event(Op.UPDATE, (2, 7), value)) for value in ("", None, "b")]
    batch = narrow_batch(samples)
    events = read_events(batch, batch.column("str_v"))
    assert events.empty.tolist() == [False, True, False]
    assert events.value.to_pylist() == ["", None, "b"]
    assert (events.op.tolist(), events.epoch.tolist(), events.lsn.tolist()) == ([2] * 3, [2] * 3, [7] * 3)
    assert {part.dtype for part in (events.row, events.channel, events.epoch, events.lsn)} == {
        np.dtype("int64")
    }


def test_a_batch_that_is_a_slice_of_another_is_read_from_its_offset() -> None:
    """Arrow slices share their buffers."""
    keys = random_keys(1, 5)
    batch = narrow_batch([Sample(key, Event(Op.READ, (0, 0), "v")) for key in keys]).slice(50, 60)
    assert coordinates(read_events(batch, batch.column("str_v"))) == [tuple(key) for key in keys[50:110]]


def test_an_empty_batch_has_no_rows() -> None:
    """And no ships or channels."""
    batch = empty_batch()
    events = read_events(batch, batch.column("str_v"))
    assert (len(events), len(events.rows), events.channels, events.rows.ships) == (0, 0, (), ())


@pytest.mark.parametrize(
    "size", [40, 40 * DENSE_ROWS_FACTOR, 10**12], ids=["dense", "at the limit", "sparse"]
)
def test_counting_and_sorting_number_alike(size: int) -> None:
    """`np.unique` is the oracle, whichever way is taken."""
    key = np.random.default_rng(3).integers(0, size, 40)
    wanted, inverse = np.unique(key, return_inverse=True)
    present, number = distinct(key, size)
    assert present.tolist() == wanted.tolist()
    assert number.tolist() == inverse.tolist()
