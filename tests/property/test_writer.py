"""The writer on PostgreSQL: whatever way events arrive, the tables end as the rule of one cell says.

Each scenario is a cell of its own, so thousands of them share a batch, and the rows that they stand in.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from tests.property.model.cell import UNKNOWN, Event, Rule, apply
from tests.property.model.flows import Typed, read
from tests.property.model.histories import histories
from tests.property.model.search import scenarios
from tests.property.model.streams import batches, delivered, interleaving, random_stream
from tests.writer_samples import (
    COUNT,
    HOSTILE,
    LOAD,
    NOON_US,
    ON,
    SHIP,
    SISTER,
    SPEED,
    STATE,
    TICK_US,
    UNLISTED,
    Key,
    Sample,
)
from tests.writer_world import HISTORY, Worlds, WriterWorld, known
from widetable import wide_rows
from widetable.narrow import Op
from widetable.schema_plan import ColumnTypes, Deletes

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture"]

WIDER = int(os.environ.get("CDC_TEST_WIDER") or 1)
CHANNELS = (LOAD, COUNT, STATE, HOSTILE, ON, SPEED, UNLISTED)
MISFIT = "no such number"
FITTING = {
    LOAD: "{}.5",
    SPEED: "-1.{}5e+20",
    COUNT: "{}",
    STATE: "text {}",
    HOSTILE: "\\N\t{}\n",
    UNLISTED: "'{}'",
}


@dataclass(slots=True)
class Story:
    """One cell: what arrives in which batch, and what it must look like."""

    key: Key
    parts: list[list[Event]]
    expected: Typed = field(default_factory=Typed)

    def take(self, number: int, rule: Rule, *, typed: bool) -> list[Event]:
        """The part of batch `number`; the expectation follows it."""
        part = self.parts[number] if number < len(self.parts) else []
        misfits = (
            frozenset([MISFIT]) if typed and self.key.channel not in {STATE, HOSTILE} else frozenset[str]()
        )
        for event in part:
            if self.key.channel == UNLISTED:
                self.expected = replace(self.expected, over=apply(self.expected.over, event, rule))
            else:
                self.expected = self.expected.take(event, misfits, rule)
        return part


def key_of(number: int) -> Key:
    """Neighbours share a row; rows belong to two ships."""
    row, channel = divmod(number, len(CHANNELS))
    return Key((SHIP, SISTER)[row % 2], NOON_US + row // 2 * TICK_US, CHANNELS[channel])


def spoken(key: Key, event: Event, misfits: float) -> Event:
    """The event with a value that its channel could send; some of them don't fit a typed column."""
    if event.value is None:
        return event
    number = sum(map(ord, event.value)) % 97
    if random.Random(f"{key}{event.value}").random() < misfits:
        return replace(event, value=MISFIT)
    if key.channel == ON:
        return replace(event, value=("true", "false")[number % 2])
    return replace(event, value=FITTING[key.channel].format(number))


def short_stories(rng: random.Random, first: int) -> Iterator[Story]:
    """Every short history, stream start and slice; batches, replays and the slice's moment are drawn."""
    for number, scenario in enumerate(scenarios(histories(4), slices=1), start=first):
        history, key = scenario.history, key_of(number)
        events = history.events(scenario.start, len(history))
        parts = batches(rng, delivered(rng, events), largest=4)
        parts.insert(rng.randint(0, len(parts)), [read(history.states[scenario.reads[0]])])
        yield Story(key, [[spoken(key, event, 0.2) for event in part] for part in parts])


def long_stories(rng: random.Random, first: int, count: int) -> Iterator[Story]:
    """Long random streams with resyncs and corrections."""
    for key in map(key_of, range(first, first + count)):
        parts = batches(rng, delivered(rng, random_stream(rng, rng.randint(1, 12))))
        yield Story(key, [[spoken(key, event, 0.2) for event in part] for part in parts])


def corrected_stories(rng: random.Random, first: int, count: int) -> Iterator[Story]:
    """Cells that are corrected before the source has them."""
    for key in map(key_of, range(first, first + count)):
        events = random_stream(rng, rng.randint(1, 8), epochs=1, missing=0.4)
        parts = batches(rng, delivered(rng, events))
        yield Story(key, [[spoken(key, event, 0.2) for event in part] for part in parts])


def told(stories: list[Story], number: int, rng: random.Random, rule: Rule, *, typed: bool) -> list[Sample]:
    """Batch `number` of all stories: in order per cell, in any order across cells."""
    parts = [story.take(number, rule, typed=typed) for story in stories]
    queues = [iter(part) for part in parts]
    return [Sample(stories[i].key, next(queues[i])) for i in interleaving(rng, parts)]


def differences(world: WriterWorld, stories: list[Story]) -> list[str]:
    """Cells that are not as expected, in their column or in overflow."""
    wide, over = world.cells(), world.overflow()
    found = []
    for story in stories:
        got = Typed(known(wide, story.key), known(over, story.key))
        if got != story.expected:
            found.append(f"{story.key}: {got}, expected {story.expected} after {story.parts}")
    strangers = (wide.keys() | over.keys()) - {story.key for story in stories}
    return found + [f"{key} was never sent" for key in strangers]


@pytest.mark.parametrize("column_type", ["text", "typed"])
@pytest.mark.parametrize("deletes", ["apply", "ignore"])
@pytest.mark.parametrize("seed", range(WIDER))
def test_any_batching_and_repetition_gives_the_same_table(
    worlds: Worlds,
    column_type: ColumnTypes,
    deletes: Deletes,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cells, versions and overflow, at the beginning as at the end; then a full replay writes no tuple."""
    world, rng, rule = (
        worlds(column_type, deletes),
        random.Random(seed),
        Rule(ignore_deletes=deletes == "ignore"),
    )
    typed = column_type == "typed"
    stories = list(short_stories(rng, 0))
    stories += long_stories(rng, len(stories), 1_500)
    stories += corrected_stories(rng, len(stories), 500)
    rounds = max(len(story.parts) for story in stories)
    for number in range(rounds):
        # Merges of few columns, and of all of them, take turns.
        monkeypatch.setattr(wide_rows, "SPARSE_COLUMNS", number % 2 * 64)
        world.write(told(stories, number, rng, rule, typed=typed))
        if number in {1, rounds - 1}:
            assert differences(world, stories)[:3] == []
    assert sum(story.expected.wide != UNKNOWN for story in stories) > 1_000
    assert sum(story.expected.over != UNKNOWN for story in stories) > 300

    before, texts = world.tuples_written(), world.texts()
    for number in range(rounds):
        world.write(told(stories, number, rng, rule, typed=typed))
    assert differences(world, stories)[:3] == []
    assert world.texts() == texts
    assert world.tuples_written() == before


@pytest.mark.parametrize("column_type", ["text", "typed"])
def test_backfill_at_any_point_of_a_stream_gives_what_the_stream_gives(
    worlds: Worlds, column_type: ColumnTypes
) -> None:
    """Byte for byte, versions and overflow included; a copy of the end state, all but what only streams leave."""
    rng, world = random.Random(11), worlds(column_type, "apply")
    streams = sources(rng, 400)
    world.write(Sample(key, event) for key, events in streams.items() for event in events)
    streamed, values, overflow = world.texts(), world.texts(versions=False), world.overflow()
    for _ in range(4 * WIDER):
        world.clear()
        seen = {key: rng.randint(0, len(events)) for key, events in streams.items()}
        cuts = {key: rng.randint(0, len(events)) for key, events in streams.items()}
        world.write(Sample(key, event) for key, cut in cuts.items() for event in streams[key][:cut])
        world.write(copied(streams, seen), origin=HISTORY)
        world.write(Sample(key, event) for key, cut in cuts.items() for event in streams[key][cut:])
        assert world.texts() == streamed
        assert world.overflow() == overflow

    world.clear()
    world.write(copied(streams, {key: len(events) for key, events in streams.items()}), origin=HISTORY)
    assert world.texts(versions=False) == values
    held = {key: cell.value for key, cell in overflow.items() if cell.value is not None}
    assert {key: cell.value for key, cell in world.overflow().items()} == held


def sources(rng: random.Random, count: int) -> dict[Key, list[Event]]:
    """What happens to each of `count` cells at the source, in one epoch."""
    found = {}
    for key in map(key_of, range(count)):
        events = random_stream(rng, rng.randint(1, 9), epochs=1)
        found[key] = [spoken(key, event, 0.1) for event in events if event.op is not Op.CORRECTION]
    return found


def copied(streams: dict[Key, list[Event]], seen: dict[Key, int]) -> list[Sample]:
    """What a slice reads after so many changes of each cell."""
    last = {key: streams[key][count - 1] for key, count in seen.items() if count}
    return [Sample(key, read(event.value)) for key, event in last.items() if event.op is not Op.DELETE]
