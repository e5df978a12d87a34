"""Change events to rows: every op, version, image and value, by both engines."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cdc_consumer.decoder import Decoder, Engine, Epochs, TruncateError
from tests.debezium_events import (
    COMMITTED_MS,
    EPOCH,
    KEY_ID,
    MOMENT_US,
    PLACEHOLDER,
    RECEIVED_MS,
    VALUE_ID,
    Schemas,
    change,
    changed_schema,
    create,
    decoder,
    framed,
    key,
    records,
    sample,
)
from widetable.errors import ExitCode, StoppedError
from widetable.narrow import NARROW_SCHEMA, VALUE_COLUMNS, DeadCell, Decoded, Op

LATER_US = MOMENT_US + 15_000_000
NOTHING = dict.fromkeys(("value_format", *VALUE_COLUMNS))


@pytest.fixture(params=["pyruhvro", "fastavro"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Both ways to decode."""
    chosen: Engine = request.param
    return chosen


def decoded(engine: Engine, *events: dict[str, Any]) -> Decoded:
    """What becomes of events, each a message of partition 2 from offset 40 on."""
    return decoder(engine).decode(records([framed(event) for event in events]))


def rows(result: Decoded, *columns: str) -> list[tuple[Any, ...]]:
    """Some columns of the decoded rows."""
    return [tuple(row[column] for column in columns) for row in result.batch.to_pylist()]


def test_a_create_is_one_row_with_all_its_coordinates(engine: Engine) -> None:
    """Of the schema that live and history share, version and Kafka coordinates included."""
    result = decoded(engine, create(lsn=123))
    assert result.batch.schema == NARROW_SCHEMA
    assert result.batch.to_pylist() == [
        {
            "ship_id": "IMO9976903",
            "channel_id": "/a////bar/press",
            "created_time": MOMENT_US,
            "value_format": "Decimal",
            "double_v": "1.5",
            "long_v": None,
            "str_v": None,
            "bool_v": None,
            "op": Op.CREATE,
            "epoch": EPOCH,
            "lsn": 123,
            "source_ms": COMMITTED_MS,
            "partition": 2,
            "offset": 40,
            "record_ms": RECEIVED_MS,
        }
    ]
    assert (result.dead, result.filtered) == ([], {})


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("double_v", 1e16, "1e+16"),
        ("double_v", -0.0, "-0"),
        ("double_v", math.nan, "NaN"),
        ("double_v", -math.inf, "-Infinity"),
        ("long_v", -(2**63), "-9223372036854775808"),
        ("long_v", 2**63 - 1, "9223372036854775807"),
        ("bool_v", True, "true"),
        ("bool_v", False, "false"),
        ("str_v", "", ""),
        ("str_v", 'a\t"b";--\r\n\\N ⚓', 'a\t"b";--\r\n\\N ⚓'),
        ("str_v", "nul\0nul", "nul\0nul"),
    ],
)
def test_values_arrive_as_postgresql_text(engine: Engine, column: str, value: Any, text: str) -> None:
    """Also the values that formatters, escapes and C strings get wrong."""
    (row,) = decoded(engine, create(**{column: value})).batch.to_pylist()
    assert {name: row[name] for name in VALUE_COLUMNS} == {**dict.fromkeys(VALUE_COLUMNS), column: text}


def test_a_read_of_the_snapshot_has_no_version(engine: Engine) -> None:
    """It is history, whatever lsn Debezium gives it, or none."""
    result = decoded(engine, change("r", sample(), lsn=77), change("r", sample(), lsn=None))
    assert rows(result, "op", "epoch", "lsn") == [(Op.READ, 0, 0)] * 2


@pytest.mark.parametrize("before", [None, sample(double_v=9.5)], ids=["identity default", "identity full"])
def test_an_update_is_its_new_values(engine: Engine, before: dict[str, Any] | None) -> None:
    """With REPLICA IDENTITY DEFAULT there is no old row, with FULL it names the same sample."""
    result = decoded(engine, change("u", sample(double_v=2.5), before, lsn=5))
    assert rows(result, "op", "double_v", "lsn") == [(Op.UPDATE, "2.5", 5)]


def test_a_delete_is_coordinates_without_values(engine: Engine) -> None:
    """The old row's values don't matter, not even the placeholder."""
    old = sample(data_channel_id="/gone", created_time=LATER_US, str_v=PLACEHOLDER)
    result = decoded(engine, create(), change("d", before=old, lsn=9), create())
    assert rows(result, "op", "lsn", "offset") == [
        (Op.CREATE, 100, 40),
        (Op.DELETE, 9, 41),
        (Op.CREATE, 100, 42),
    ]
    row = result.batch.to_pylist()[1]
    assert (row["channel_id"], row["created_time"]) == ("/gone", LATER_US)
    assert row | NOTHING == row


@pytest.mark.parametrize(
    "moved",
    [{"ship_id": "IMO1"}, {"data_channel_id": "/new"}, {"created_time": LATER_US}],
    ids=lambda m: next(iter(m)),
)
def test_an_update_of_coordinates_is_a_delete_then_a_create(engine: Engine, moved: dict[str, Any]) -> None:
    """Both at its lsn and offset, next to each other, its neighbours untouched."""
    move = change("u", sample(double_v=2.5, **moved), sample(double_v=1.25), lsn=7)
    stay = change("u", sample(double_v=3.5), sample(double_v=1.25), lsn=8)
    result = decoded(engine, create(), move, stay)
    columns = ("ship_id", "data_channel_id", "created_time")
    old, new = (tuple((sample() | changes)[column] for column in columns) for changes in ({}, moved))
    assert rows(result, "op", "double_v", "lsn", "offset") == [
        (Op.CREATE, "1.5", 100, 40),
        (Op.DELETE, None, 7, 41),
        (Op.CREATE, "2.5", 7, 41),
        (Op.UPDATE, "3.5", 8, 42),
    ]
    assert rows(result, "ship_id", "channel_id", "created_time") == [old, old, new, old]


def test_an_update_whose_value_was_not_sent_changes_nothing(engine: Engine) -> None:
    """It is counted, and neither applied nor recorded."""
    unchanged = sample(value_format="String", str_v=PLACEHOLDER)
    result = decoded(engine, create(), change("u", unchanged), create())
    assert rows(result, "offset") == [(40,), (42,)]
    assert (result.filtered, result.dead) == ({"placeholder": 1}, [])


def test_an_update_of_another_value_beside_a_text_that_was_not_sent_counts(engine: Engine) -> None:
    """The format names a column that was sent: dropping the event would lose the update."""
    row = sample(value_format="Integer", long_v=8, str_v=PLACEHOLDER)
    result = decoded(engine, change("u", row), change("u", row | {"long_v": None}))
    assert rows(result, "long_v", "offset") == [("8", 40)]
    assert result.filtered == {"placeholder": 1}


@pytest.mark.parametrize("op", ["c", "r"])
def test_a_create_whose_value_was_not_sent_is_a_dead_cell(engine: Engine, op: str) -> None:
    """Named by its coordinates, for resync."""
    result = decoded(engine, create(), change(op, sample(value_format="String", str_v=PLACEHOLDER)))
    assert rows(result, "offset") == [(40,)]
    (cell,) = result.dead
    assert (cell.reason, cell.partition, cell.offset) == ("placeholder", 2, 41)
    assert (cell.ship_id, cell.channel_id, cell.created_time) == ("IMO9976903", "/a////bar/press", MOMENT_US)


def test_a_move_whose_value_was_not_sent_deletes_and_asks_for_resync(engine: Engine) -> None:
    """The old cell is gone for certain; the new one's value has to be read."""
    old = sample(value_format="String", str_v=None)
    new = sample(value_format="String", str_v=PLACEHOLDER, created_time=LATER_US)
    result = decoded(engine, change("u", new, old, lsn=7))
    assert rows(result, "op", "created_time", "lsn") == [(Op.DELETE, MOMENT_US, 7)]
    assert [(cell.reason, cell.created_time) for cell in result.dead] == [("placeholder", LATER_US)]


def test_milliseconds_become_microseconds_without_overflow(engine: Engine) -> None:
    """As time.precision.mode=connect sends them; an absurd moment is infinite instead of wrapping round."""
    unit = {"type": "long", "connect.name": "io.debezium.time.Timestamp"}
    schema = changed_schema(created_time=unit)
    moments = [MOMENT_US // 1000, 2**62, -(2**62)]
    messages = [framed(create(created_time=moment), schema, 8) for moment in moments]
    result = decoder(engine, {8: schema}).decode(records(messages))
    infinities = [9_223_372_036_825_200_000, -9_223_372_036_832_400_000]
    assert rows(result, "created_time") == [(MOMENT_US,), *((moment,) for moment in infinities)]


def test_a_column_added_to_the_source_changes_nothing(engine: Engine) -> None:
    """Old and new schema in one batch, in the order of the records, whatever the new column's type."""
    kinds: list[Any] = ["int", ["null", "bytes"], {"type": "array", "items": "string"}]
    for kind, content in zip(kinds, (1, b"\xff", ["x"]), strict=True):
        schema = changed_schema(added=kind)
        values = [framed(create(double_v=float(i))) for i in range(5)]
        values[1::2] = [framed(create(double_v=float(i), added=content), schema, 9) for i in (1, 3)]
        result = decoder(engine, {9: schema}).decode(records(values))
        assert rows(result, "double_v", "offset") == [(str(i), 40 + i) for i in range(5)]
        assert result.dead == []


def test_logical_decoding_messages_are_counted_and_pass(engine: Engine) -> None:
    """They change no row."""
    result = decoded(engine, create(), change("m"), create())
    assert rows(result, "offset") == [(40,), (42,)]
    assert result.filtered == {"logical_message": 1}


def test_a_truncate_stops_and_names_the_way_on(engine: Engine) -> None:
    """It has no key; what stands before it can still be applied."""
    values = [framed(create()), framed(change("t")), framed(create())]
    batch = records(values, [key(), None, key()])
    with pytest.raises(TruncateError, match=r"docs/operations\.md") as caught:
        decoder(engine).decode(batch)
    assert isinstance(caught.value, StoppedError)
    assert caught.value.exit_code == ExitCode.STOPPED
    assert (caught.value.partition, caught.value.offset) == (2, 41)
    assert rows(decoder(engine).decode(batch.before(2, 41)), "offset") == [(40,)]
    assert batch.before(3, 0).offsets.tolist() == [40, 41, 42]


def test_an_event_belongs_to_the_last_epoch_that_began_before_it() -> None:
    """Per partition; a partition that an epoch does not name goes on, and 0 stands before the first."""
    epochs = Epochs(((1, {0: 10, 1: 0}), (4, {0: 20})))
    partitions = np.array([0, 0, 0, 0, 1, 1], np.int32)
    offsets = np.array([9, 10, 19, 20, 0, 99], np.int64)
    assert epochs(partitions, offsets).tolist() == [0, 1, 1, 4, 1, 1]


def test_rows_carry_the_epoch_partition_and_offset_of_their_record(engine: Engine) -> None:
    """Two partitions in one batch, one of them past the boundary of a new epoch."""
    plain = records([framed(create())] * 4)
    batch = replace(
        plain, partitions=np.array([0, 0, 1, 1], np.int32), offsets=np.array([4, 5, 4, 5], np.int64)
    )
    schemas = Schemas()
    result = Decoder(schemas, PLACEHOLDER, Epochs(((1, {0: 0, 1: 0}), (2, {1: 5}))), engine).decode(batch)
    assert rows(result, "epoch", "partition", "offset") == [(1, 0, 4), (1, 0, 5), (1, 1, 4), (2, 1, 5)]


def test_schemas_are_asked_for_once() -> None:
    """However many batches they wrote."""
    schemas = Schemas()
    decode = Decoder(schemas, PLACEHOLDER, Epochs(())).decode
    for _ in range(3):
        decode(records([framed(create()), framed(create())]))
    assert sorted(schemas.asked) == [KEY_ID, VALUE_ID]


def test_any_schema_id_is_read_from_the_frame() -> None:
    """The id travels through a float: those that look like NaN keep their bits."""
    for schema_id in (1, 0x7F, 0x80FF, 0xC07F, 0x1234A5FF, 2**31 - 1):
        decode = decoder(schemas={schema_id: changed_schema()}).decode
        batch = records([framed(create(), schema_id=schema_id)] * 2)
        assert [decode(batch).batch.num_rows for _ in range(2)] == [2, 2]


def test_no_records_are_no_rows(engine: Engine) -> None:
    """An empty batch is no special case for callers, before and after the first schema."""
    decode = decoder(engine).decode
    for values in ([], [framed(create())], []):
        result = decode(records(values))
        assert result.batch.schema == NARROW_SCHEMA
        assert result.batch.num_rows == len(values)


def test_every_record_ends_as_row_dead_cell_or_filtered(engine: Engine) -> None:
    """In one batch of everything: the count comes out, a move being two rows of one record."""
    move = change("u", sample(created_time=LATER_US), sample())
    hidden = sample(value_format="String", str_v=PLACEHOLDER)
    events = [
        create(),
        move,
        change("u", hidden),
        change("c", hidden),
        change("m"),
        change("x"),
        change("d", before=sample()),
    ]
    values: list[bytes | None] = [*map(framed, events), None, b"junk", b'{"a": 1}']
    result = decoder(engine).decode(records(values))
    offsets = {row[0] for row in rows(result, "offset")}
    assert len(offsets) + len(result.dead) + sum(result.filtered.values()) == len(values)
    assert all(
        isinstance(cell, DeadCell) and cell.raw_value == values[cell.offset - 40] for cell in result.dead
    )
