"""`fold` and `resolve` are the rule of one cell: equal to it on every short stream and on long random ones."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest

from tests.property.model.arrays import apply_batches, events_of
from tests.property.model.cell import APPLY, IGNORE, UNKNOWN, Cell, Event, Rule, apply, apply_all
from tests.property.model.flows import read
from tests.property.model.histories import History, deliveries, histories
from tests.property.model.streams import batches, delivered, interleaving, random_stream
from widetable.narrow import Op
from widetable.rule import NONE, fold

both_rules = pytest.mark.parametrize("rule", [APPLY, IGNORE], ids=["deletes applied", "deletes ignored"])
SEEDS = range(int(os.environ.get("CDC_TEST_WIDER") or 4))

Step = tuple[Cell, list[Event], str]  # the cell before, one batch of its events, what to call it


def require_equal(steps: list[Step], rule: Rule, order: list[int] | None = None) -> list[Cell]:
    """The array code and the rule, event by event, must make the same of every cell."""
    before, parts, names = zip(*steps, strict=True)
    found = apply_batches(before, parts, ignore_deletes=rule.ignore_deletes, order=order)
    for cell, events, name, got in zip(before, parts, names, found, strict=True):
        wanted = apply_all(cell, list(events), rule)
        assert got == wanted, f"{name}: {cell} and then {events}"
    return found


def prefixes(events: list[Event], rule: Rule, first: Cell) -> list[Cell]:
    """The cell before each event, and after the last."""
    cells = [first]
    for event in events:
        cells.append(apply(cells[-1], event, rule))
    return cells


def cut_everywhere(history: History, replays: int, rule: Rule) -> Iterator[Step]:
    """Each stretch of each delivery as one batch, on what the events before it made of the cell."""
    for arrival in deliveries(len(history), replays):
        events = [history.event(position) for position in arrival]
        cells = prefixes(events, rule, UNKNOWN)
        for start in range(len(events)):
            for stop in range(start + 1, len(events) + 1):
                yield cells[start], events[start:stop], f"{history.ops} {arrival} [{start}:{stop}]"


@both_rules
def test_any_batch_of_any_short_stream_with_replays(rule: Rule) -> None:
    """Up to five operations with one replay, up to three with two."""
    steps = [step for history in histories(5) for step in cut_everywhere(history, 1, rule)]
    steps += [step for history in histories(3) for step in cut_everywhere(history, 2, rule)]
    assert len(steps) > 50_000
    require_equal(steps, rule)


@both_rules
def test_any_batch_on_cells_that_a_slice_has_filled(rule: Rule) -> None:
    """A slice is written before any event of the stream; what it read may be newer than the batch."""
    steps = []
    for history in histories(4):
        events = history.events(0, len(history))
        for value in history.states:
            for at in range(len(events) + 1):
                before = prefixes(events[:at], rule, UNKNOWN)[-1]
                cells = prefixes(events[at:], rule, apply(before, read(value), rule))
                for stop in range(at + 1, len(events) + 1):
                    for start in range(at, stop):
                        part = events[start:stop]
                        steps.append(
                            (cells[start - at], part, f"{history.ops} {value}@{at} [{start}:{stop}]")
                        )
    assert len(steps) > 2_000
    require_equal(steps, rule)


@both_rules
def test_a_slice_of_any_state_on_any_cell(rule: Rule) -> None:
    """A read sets what is NULL and has no version; a batch of reads only takes the short way through `fold`."""
    steps = []
    for history in histories(4):
        for before in prefixes(history.events(0, len(history)), rule, UNKNOWN):
            steps += [(before, [read(value)], history.ops) for value in history.states]
            # As a snapshot read of the topic, with an offset and an lsn above all the others.
            steps += [(before, [Event(Op.READ, (1, 99), value)], history.ops) for value in history.states]
    require_equal(steps, rule)
    require_equal([(before, [*event, *event], name) for before, event, name in steps], rule)


@both_rules
def test_a_resync_on_any_cell(rule: Rule) -> None:
    """The first version of a new epoch outranks every one of the old, and is outranked by its own successors."""
    steps = []
    for history in histories(4):
        for before in prefixes(history.events(0, len(history)), rule, UNKNOWN):
            for value in history.states:
                resync = Event(Op.RESYNC, (2, 0), value)
                later = Event(Op.UPDATE, (2, 1), "later")
                steps += [
                    (before, events, history.ops) for events in ([resync], [resync, later], [later, resync])
                ]
                steps += [(apply(before, later, rule), [resync], history.ops)]
    require_equal(steps, rule)


@both_rules
@pytest.mark.parametrize("seed", SEEDS)
def test_long_streams_of_many_cells_in_any_order_across_cells(rule: Rule, seed: int) -> None:
    """Lives, epochs, resyncs, corrections, repeated suffixes and duplicates; batches interleave the cells."""
    rng = random.Random(seed)
    streams = [batches(rng, delivered(rng, random_stream(rng, rng.randint(1, 12)))) for _ in range(800)]
    before = [UNKNOWN] * len(streams)
    for number in range(max(map(len, streams))):
        parts = [stream[number] if number < len(stream) else [] for stream in streams]
        steps = [(cell, part, f"cell {i}") for i, (cell, part) in enumerate(zip(before, parts, strict=True))]
        before = require_equal(steps, rule, interleaving(rng, parts))
    assert sum(cell.version is not None for cell in before) > 400


@both_rules
@pytest.mark.parametrize("seed", SEEDS)
def test_samples_that_are_corrected_before_the_source_has_them(rule: Rule, seed: int) -> None:
    """A correction, the insert above it, and all that follows, in batches and repeated suffixes."""
    rng = random.Random(seed)
    streams = [random_stream(rng, rng.randint(1, 8), epochs=1, missing=0.4) for _ in range(800)]
    arriving = [batches(rng, delivered(rng, stream)) for stream in streams]
    before = [UNKNOWN] * len(streams)
    for number in range(max(map(len, arriving))):
        parts = [stream[number] if number < len(stream) else [] for stream in arriving]
        steps = [(cell, part, f"cell {i}") for i, (cell, part) in enumerate(zip(before, parts, strict=True))]
        before = require_equal(steps, rule, interleaving(rng, parts))
    assert sum(cell.kind == "c" for cell in before) > 20


@both_rules
def test_repeating_a_batch_changes_nothing(rule: Rule) -> None:
    """What a batch has done, the same batch finds done: no cell is set or recorded twice."""
    rng = random.Random(7)
    parts = [random_stream(rng, rng.randint(1, 8)) for _ in range(2_000)]
    once = apply_batches([UNKNOWN] * len(parts), parts, ignore_deletes=rule.ignore_deletes)
    assert apply_batches(once, parts, ignore_deletes=rule.ignore_deletes) == once


def test_a_batch_of_distinct_creates_is_not_sorted() -> None:
    """History and the first delivery of a burst: every event is its cell's fill."""
    folded = fold(events_of([[read("a")], [Event(Op.CREATE, (1, 5), "b")], [read(None)]]))
    assert folded.fill.tolist() == [0, 1, 2]
    assert folded.row.tolist() == [0, 1, 2]
    assert (folded.assign == NONE).all()
    assert (folded.mark == NONE).all()


def test_a_batchs_own_update_outranks_what_is_older_in_it() -> None:
    """`resolve` would see it too, but overflow takes what `fold` leaves; a read yields whatever its lsn says."""
    update = Event(Op.UPDATE, (1, 5), "new")
    folded = fold(
        events_of([[update, Event(Op.CREATE, (1, 3), "old")], [update, Event(Op.READ, (1, 9), "old")]])
    )
    assert (folded.assign.tolist(), folded.fill.tolist()) == ([0, 2], [NONE, NONE])
    folded = fold(events_of([[update, Event(Op.DELETE, (1, 3))]]), ignore_deletes=True)
    assert (folded.assign.tolist(), folded.mark.tolist()) == ([0], [NONE])


def test_an_empty_batch_folds_to_nothing() -> None:
    """Nothing in, nothing out, under both rules."""
    for ignore_deletes in (False, True):
        folded = fold(events_of([]), ignore_deletes=ignore_deletes)
        assert len(folded) == 0
        assert folded.event_count() == 0


def test_versions_at_the_ends_of_their_range() -> None:
    """A WAL position is 64 bits wide, of which the upper half is never used; epochs are counted from 1."""
    newest = (2**31 - 1, 2**63 - 1)
    old, new = Event(Op.UPDATE, (1, 0), "old"), Event(Op.UPDATE, newest, "new")
    assert apply_batches([UNKNOWN], [[new, old]]) == [Cell("new", newest, "u")]
    assert apply_batches([Cell("new", newest, "u")], [[old]]) == [Cell("new", newest, "u")]
    assert np.iinfo(np.int64).max == newest[1]
