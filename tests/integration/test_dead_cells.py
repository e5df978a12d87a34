"""Dead cells on PostgreSQL: what can't be stored keeps its coordinates, and costs its neighbours nothing."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from tests.property.model.cell import Cell
from tests.writer_samples import (
    LOAD,
    NOON_US,
    SHIP,
    STATE,
    TICK_US,
    UNLISTED,
    Key,
    Sample,
    copied,
    created,
    narrow_batch,
)
from tests.writer_world import HISTORY, STREAM, WriterWorld
from widetable.applied import Applied
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US, NARROW_SCHEMA, DeadCell, empty_batch

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture"]

INFINITY_US, MINUS_INFINITY_US = 9_223_372_036_825_200_000, -9_223_372_036_832_400_000


def dead_cells(world: WriterWorld) -> list[dict[str, Any]]:
    """All dead cells, in the order of their arrival."""
    rows = world.conn.execute("SELECT to_jsonb(d) - 'added_at' - 'dead_no' FROM dead_cell d ORDER BY dead_no")
    return [row for (row,) in rows]


def several_values(samples: list[Sample], **columns: str) -> pa.RecordBatch:
    """The samples with these value columns set instead of their own."""
    batch = narrow_batch(samples).to_pylist()
    return pa.RecordBatch.from_pylist([{**row, "str_v": None, **columns} for row in batch], NARROW_SCHEMA)


POISON = [
    pytest.param(created("a\0b", LOAD), "nul", id="a NUL in the value"),
    pytest.param(created("a", "ch\0annel"), "nul", id="a NUL in the channel"),
    pytest.param(created("a", ship="sh\0ip"), "nul", id="a NUL in the ship"),
    pytest.param(created("a", LOAD, moment_us=INFINITY_US), "infinity", id="infinity"),
    pytest.param(created("a", LOAD, moment_us=MINUS_INFINITY_US), "infinity", id="minus infinity"),
    pytest.param(created("a", LOAD, moment_us=LAST_MOMENT_US + 1), "infinity", id="after the last moment"),
    pytest.param(created("a", LOAD, moment_us=FIRST_MOMENT_US - 1), "infinity", id="before the first moment"),
]


@pytest.mark.parametrize(("poison", "reason"), POISON)
def test_one_poison_cell_costs_its_neighbours_nothing(
    text_world: WriterWorld, poison: Sample, reason: str
) -> None:
    """It is in the middle of a burst; the others of its row, and of overflow, arrive."""
    applied = text_world.write([created("fine"), poison, created("too", UNLISTED)])
    assert applied == Applied(events=3, applied=1, overflow=1, dead=1, rows_new=1)
    assert text_world.cells() == {Key(SHIP, NOON_US, STATE): Cell("fine")}
    assert text_world.overflow() == {Key(SHIP, NOON_US, UNLISTED): Cell("too")}
    (dead,) = dead_cells(text_world)
    assert dead["reason"] == reason
    assert (dead["topic"], dead["topic_id"], dead["partition"], dead["kafka_offset"]) == (
        "topic",
        "topic-id",
        0,
        1,
    )


def test_a_dead_cell_of_the_stream_tells_all_that_is_known(text_world: WriterWorld) -> None:
    """Coordinates, the cell as far as text can hold it, the values, and the headers of Connect's dead letters."""
    text_world.write([created("a\0b", LOAD)])
    (dead,) = dead_cells(text_world)
    value = bytes.fromhex(dead.pop("raw_value").removeprefix("\\x"))
    assert json.loads(value)["str_v"] == "a\0b"
    detail = "a NUL character, which PostgreSQL text can't hold"
    assert dead == {
        "pipeline": "test",
        "topic": "topic",
        "topic_id": "topic-id",
        "partition": 0,
        "kafka_offset": 0,
        "ship_id": SHIP,
        "channel_id": LOAD,
        "created_time": "2026-01-01T12:00:00.000000",
        "reason": "nul",
        "detail": detail,
        "headers": {
            "__connect.errors.topic": "topic",
            "__connect.errors.partition": "0",
            "__connect.errors.offset": "0",
            "__connect.errors.stage": "VALUE_CONVERTER",
            "__connect.errors.exception.message": f"nul: {detail}",
        },
        "raw_key": None,
    }


@pytest.mark.parametrize("origin", [STREAM, HISTORY], ids=["stream", "history"])
def test_values_that_contradict_each_other_are_dead(text_world: WriterWorld, origin: Any) -> None:
    """Several columns set and the named one empty; from history they are known by their cell."""
    make = created if origin is STREAM else copied
    batch = several_values(
        [make("", LOAD), make("", LOAD, moment_us=NOON_US + TICK_US)], double_v="1", long_v="2"
    )
    for _ in range(2):
        assert text_world.apply(batch, origin=origin) == Applied(events=2, dead=2)
    found = dead_cells(text_world)
    assert [(dead["reason"], dead["ship_id"], dead["channel_id"]) for dead in found] == [
        ("ambiguous", SHIP, LOAD)
    ] * 2
    offsets = [0, 1] if origin is STREAM else [None, None]
    assert [dead["kafka_offset"] for dead in found] == offsets
    assert [dead["created_time"][-15:] for dead in found] == ["12:00:00.000000", "12:00:15.000000"]


def test_a_replay_of_dead_cells_writes_no_tuple(text_world: WriterWorld) -> None:
    """Each is known by its coordinates: topic and offset, or the cell in history."""
    message = DeadCell("undecodable", "no schema 9", 0, 77, raw_key=b"key", raw_value=b"\x00\x09")
    for origin, make in ((STREAM, created), (HISTORY, copied)):
        batch = narrow_batch([make("nul\0", LOAD), make("nul\0", STATE)])
        dead = [message] if origin is STREAM else []
        text_world.apply(batch, dead, origin)
        before = text_world.tuples_written()
        text_world.apply(batch, dead, origin)
        assert text_world.tuples_written() == before
    assert len(dead_cells(text_world)) == 5


def test_one_message_may_hold_two_dead_cells_of_a_channel(text_world: WriterWorld) -> None:
    """A sample whose moment is changed is a delete and an insert, both of one record; a replay adds neither."""
    for _ in range(2):
        text_world.apply(
            empty_batch(),
            [
                DeadCell("nul", "", 0, 5, SHIP, LOAD, NOON_US),
                DeadCell("nul", "", 0, 5, SHIP, LOAD, INFINITY_US),
            ],
        )
    assert [dead["created_time"] for dead in dead_cells(text_world)] == [
        "2026-01-01T12:00:00.000000",
        "infinity",
    ]


def test_messages_that_could_not_be_decoded_come_with_the_batch(text_world: WriterWorld) -> None:
    """They are none of its events; key and value are kept byte for byte."""
    dead = [
        DeadCell("undecodable", "bad\0magic", 3, 8, raw_key=b"\x00\xff", raw_value=bytes(range(256))),
        DeadCell("undecodable", "no key", 3, 9, raw_value=b""),
    ]
    assert text_world.apply(empty_batch(), dead) == Applied()
    first, second = dead_cells(text_world)
    assert bytes.fromhex(first["raw_value"].removeprefix("\\x")) == bytes(range(256))
    assert bytes.fromhex(first["raw_key"].removeprefix("\\x")) == b"\x00\xff"
    assert first["detail"] == "bad\\0magic"
    assert (second["raw_key"], second["raw_value"], second["ship_id"]) == (None, "\\x", None)
    assert (second["partition"], second["kafka_offset"]) == (3, 9)


@pytest.mark.parametrize(
    ("moment_us", "text"),
    [
        (INFINITY_US, "infinity"),
        (MINUS_INFINITY_US, "-infinity"),
        (LAST_MOMENT_US + 1, "infinity"),
        (NOON_US, "2026-01-01T12:00:00.000000"),
    ],
)
def test_infinite_moments_are_named_as_postgresql_does(
    text_world: WriterWorld, moment_us: int, text: str
) -> None:
    """As text, for a timestamp column could hold them but no wide row has them as its key."""
    text_world.apply(empty_batch(), [DeadCell("nul", "", -1, -1, SHIP, LOAD, moment_us)], HISTORY)
    assert [dead["created_time"] for dead in dead_cells(text_world)] == [text]
