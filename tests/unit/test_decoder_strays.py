"""What is no change event of the narrow table: a dead cell with its coordinates, or an error to correct."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import fastavro
import pytest

from cdc_consumer.decoder import Engine
from tests.debezium_events import (
    KEY_ID,
    VALUE_SCHEMA,
    change,
    changed_schema,
    create,
    decoder,
    framed,
    key,
    records,
    sample,
)
from widetable.errors import ConfigurationError

FLATTENED = {"type": "record", "name": "Value", "fields": VALUE_SCHEMA["fields"][0]["type"][1]["fields"]}
TRANSACTION = {
    "type": "record",
    "name": "TransactionMetadataValue",
    "namespace": "io.debezium.connector.common",
    "fields": [
        {"name": "status", "type": "string"},
        {"name": "id", "type": "string"},
        {"name": "event_count", "type": ["null", "long"]},
    ],
}
HEARTBEAT = {"type": "record", "name": "Heartbeat", "fields": [{"name": "ts_ms", "type": "long"}]}
OTHER_TABLE = {**VALUE_SCHEMA, "namespace": "fleet.tenant.tbl_ships"}
SELF_REFERENCE = changed_schema(parent=["null", "Value"])
STRAY_SCHEMAS: dict[int, Any] = {
    20: FLATTENED,
    21: TRANSACTION,
    22: HEARTBEAT,
    23: OTHER_TABLE,
    24: "string",
    25: {"type": "record"},
    26: ["null", "long"],
    27: SELF_REFERENCE,
}


def no_lsn_or_image(**parts: Any) -> bytes:
    """A change that lacks a part which an insert has."""
    return framed(change("c", sample()) | parts)


def invalid_text() -> bytes:
    """A channel that is not UTF-8."""
    return framed(create(data_channel_id="XXXX")).replace(b"XXXX", b"\xff\xfe\x00X")


STRAYS: dict[str, tuple[bytes | None, str]] = {
    "a tombstone": (None, "tombstone"),
    "nothing": (b"", "not_avro"),
    "a few bytes": (b"\0\0\0", "not_avro"),
    "another magic byte": (b"\1" + framed(create())[1:], "not_avro"),
    "text": (b"hello world", "not_avro"),
    "JSON": (json.dumps({"op": "c", "after": {}}).encode(), "json"),
    "Apicurio's 8-byte frame": (struct.pack(">bq", 0, 6) + framed(create())[5:], "apicurio_frame"),
    "an id in the header": (framed(create())[5:], "unknown_schema"),
    "an unknown schema": (framed(create(), schema_id=999), "unknown_schema"),
    "a flattened event": (framed(sample(), FLATTENED, 20), "flattened"),
    "a transaction marker": (
        framed({"status": "END", "id": "7:1", "event_count": 1}, TRANSACTION, 21),
        "transaction_marker",
    ),
    "a heartbeat": (framed({"ts_ms": 1}, HEARTBEAT, 22), "foreign_schema"),
    "another table": (framed(create(), OTHER_TABLE, 23), "other_table"),
    "a plain string": (framed("text", "string", 24), "foreign_schema"),
    "a broken schema": (framed(create(), schema_id=25), "foreign_schema"),
    "a schema without an end": (framed(create(parent=None), SELF_REFERENCE, 27), "foreign_schema"),
    "a union": (framed(1, ["null", "long"], 26), "foreign_schema"),
    "half a message": (framed(create())[:40], "undecodable"),
    "a frame alone": (framed(create())[:5], "undecodable"),
    "text that is not UTF-8": (invalid_text(), "undecodable"),
    "an unknown op": (framed(change("x", sample())), "undecodable"),
    "a create without a row": (framed(change("c")), "no_image"),
    "a delete without a row": (framed(change("d")), "no_image"),
    "a change without an lsn": (framed(change("u", sample(), lsn=None)), "no_lsn"),
}


@pytest.fixture(params=["pyruhvro", "fastavro"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Both ways to decode."""
    chosen: Engine = request.param
    return chosen


@pytest.mark.parametrize("name", STRAYS)
def test_a_stray_is_a_dead_cell_and_its_neighbours_live(engine: Engine, name: str) -> None:
    """With partition, offset, raw bytes, and a reason that tells what it was."""
    value, reason = STRAYS[name]
    good = [framed(create(double_v=float(i))) for i in range(3)]
    decode = decoder(engine, STRAY_SCHEMAS).decode
    for _ in range(2):  # also when the good schema is known already
        result = decode(records([*good[:2], value, good[2]]))
        assert result.batch.column("offset").to_pylist() == [40, 41, 43]
        assert result.batch.column("double_v").to_pylist() == ["0", "1", "2"]
        (cell,) = result.dead
        assert (cell.reason, cell.partition, cell.offset) == (reason, 2, 42)
        assert (cell.raw_value, cell.raw_key) == (value, key())
        assert cell.detail


def test_a_batch_of_strays_alone_is_no_rows(engine: Engine) -> None:
    """One dead cell each, in the order of the records."""
    values = [value for value, _ in STRAYS.values()]
    result = decoder(engine, STRAY_SCHEMAS).decode(records(values))
    assert result.batch.num_rows == 0
    assert [cell.reason for cell in result.dead] == [reason for _, reason in STRAYS.values()]
    assert [cell.offset for cell in result.dead] == list(range(40, 40 + len(values)))


def test_a_poisoned_batch_costs_only_the_poison(engine: Engine) -> None:
    """However many and wherever they are: halving finds each of them."""
    values = [framed(create(double_v=float(i))) for i in range(100)]
    poisoned = [0, 1, 17, 50, 51, 98, 99]
    for place in poisoned:
        values[place] = values[place][:60]
    result = decoder(engine).decode(records(values))
    assert [cell.offset - 40 for cell in result.dead] == poisoned
    living = [place for place in range(100) if place not in poisoned]
    assert result.batch.column("double_v").to_pylist() == [str(place) for place in living]


def test_bytes_that_no_writer_writes_are_not_believed() -> None:
    """A boolean of 2, which fastavro reads as true and pyruhvro refuses: the doubt decides."""
    broken = bytearray(framed(create(bool_v=True, str_v=None, value_format="Boolean")))
    place = broken.index(b"\x02\x01\x00\x00\x00\x02\x0eBoolean") + 1
    broken[place] = 2
    result = decoder().decode(records([framed(create()), bytes(broken)]))
    assert [(cell.reason, cell.offset) for cell in result.dead] == [("undecodable", 41)]


BAD_KEYS: dict[str, tuple[bytes | None, str]] = {
    "no key": (None, "null_key"),
    "an empty key": (b"", "bad_key"),
    "a text key": (b"IMO9976903", "bad_key"),
    "a JSON key": (b'{"ship_id": "IMO9976903"}', "bad_key"),
    "a key of an unknown schema": (struct.pack(">bI", 0, 999) + b"\x02x", "bad_key"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_record_without_a_good_key_is_a_dead_cell(engine: Engine, name: str) -> None:
    """Its order among the ship's records is not known, so it is not applied."""
    bad, reason = BAD_KEYS[name]
    keys = [key(), bad, key("IMO2")]
    result = decoder(engine).decode(records([framed(create())] * 3, keys))
    assert result.batch.column("offset").to_pylist() == [40, 42]
    (cell,) = result.dead
    assert (cell.reason, cell.offset, cell.raw_key) == (reason, 41, bad)


def test_a_stray_without_a_key_is_one_dead_cell() -> None:
    """And what it is counts, not its key."""
    result = decoder().decode(records([framed(create()), None], [key(), None]))
    assert [(cell.reason, cell.offset) for cell in result.dead] == [("tombstone", 41)]


KEYS_OF_ROWS: dict[str, Any] = {
    "the primary key": ["ship_id", "data_channel_id", "created_time"],
    "the row's id": ["id"],
    "no columns": [],
}


@pytest.mark.parametrize("name", KEYS_OF_ROWS)
def test_a_key_that_is_not_the_ship_is_a_configuration_error(engine: Engine, name: str) -> None:
    """All records have it, and then no ship is in one order: nothing may be applied."""
    columns = KEYS_OF_ROWS[name]
    schema = {
        "type": "record",
        "name": "Key",
        "fields": [{"name": column, "type": "string"} for column in columns],
    }
    bad = framed(dict.fromkeys(columns, "x"), schema, 30)
    with pytest.raises(ConfigurationError, match=r"message\.key\.columns"):
        decoder(engine, {30: schema}).decode(records([framed(create())], [bad]))


def test_a_key_of_a_plain_string_schema_is_a_configuration_error(engine: Engine) -> None:
    """Connect's StringConverter, with a registry."""
    with pytest.raises(ConfigurationError, match=r"message\.key\.columns"):
        decoder(engine, {KEY_ID: "string"}).decode(records([framed(create())]))


def test_the_key_of_a_stray_does_not_stop_the_others() -> None:
    """Another table's messages have another key, and are dead cells all the same."""
    schema = {"type": "record", "name": "Key", "fields": [{"name": "id", "type": "long"}]}
    keys = [key(), framed({"id": 1}, schema, 30)]
    values = [framed(create()), framed(create(), OTHER_TABLE, 23)]
    result = decoder(schemas={30: schema, 23: OTHER_TABLE}).decode(records(values, keys))
    assert result.batch.num_rows == 1
    assert [cell.reason for cell in result.dead] == ["other_table"]


@pytest.mark.parametrize(
    "column",
    ["ship_id", "data_channel_id", "created_time", "value_format", "double_v", "long_v", "str_v", "bool_v"],
)
def test_a_lost_column_is_a_configuration_error_that_names_it(engine: Engine, column: str) -> None:
    """Dropped and renamed look the same; what is left would be misread, so nothing of it is applied."""
    for renamed in ({column: None}, {column: None, f"{column}_old": ["null", "string"]}):
        schema = changed_schema(**renamed)
        row = {name: value for name, value in sample().items() if name != column} | {f"{column}_old": None}
        message = framed(change("c", row), schema, 31)
        with pytest.raises(ConfigurationError, match=rf"\b{column}\b.*renamed or dropped"):
            decoder(engine, {31: schema}).decode(records([framed(create()), message]))


@pytest.mark.parametrize(
    ("column", "kind", "names"),
    [
        ("double_v", ["null", "bytes"], "double_v arrives as bytes"),
        ("long_v", ["null", "string"], "long_v arrives as string"),
        ("bool_v", ["null", "int"], "bool_v arrives as int"),
        ("created_time", "long", "time.precision.mode=microseconds"),
        ("created_time", {"type": "long", "connect.name": "io.debezium.time.NanoTimestamp"}, "NanoTimestamp"),
        (
            "created_time",
            {"type": "string", "connect.name": "io.debezium.time.ZonedTimestamp"},
            "ZonedTimestamp",
        ),
        (
            "created_time",
            {"type": "string", "connect.name": "io.debezium.time.MicroTimestamp"},
            "MicroTimestamp",
        ),
    ],
)
def test_a_column_of_another_type_is_a_configuration_error(column: str, kind: Any, names: str) -> None:
    """Refused by name, rather than read as something else."""
    schema = changed_schema(**{column: kind})
    with pytest.raises(ConfigurationError, match=names):
        decoder(schemas={31: schema}).decode(records([framed(create(), schema_id=31)]))


def test_events_of_another_connector_are_a_configuration_error() -> None:
    """Without an lsn in `source` changes have no order."""
    schema = json.loads(json.dumps(VALUE_SCHEMA).replace('"lsn"', '"pos"'))
    with pytest.raises(ConfigurationError, match="lsn"):
        decoder(schemas={31: schema}).decode(records([framed(create(), schema_id=31)]))


def test_the_topic_prefix_does_not_matter() -> None:
    """Avro forbids some of its letters, and a table's; the table is recognised all the same."""
    for prefix in (
        "ships.tenant.tbl_data_timeseries",
        "a_b.tenant.tbl_data_timeseries",
        "x._tenant.tbl_data_timeseries",
    ):
        schema = {**VALUE_SCHEMA, "namespace": prefix}
        result = decoder(schemas={32: schema}).decode(records([framed(create(), schema, 32)]))
        assert (result.batch.num_rows, result.dead) == (1, [])


def test_the_test_schemas_write_what_they_say() -> None:
    """The strays above are good Avro under their own schemas, so it is the decoder that refuses them."""
    body = io.BytesIO(framed(sample(), FLATTENED, 20)[5:])
    assert fastavro.schemaless_reader(body, fastavro.parse_schema(FLATTENED), None) == sample()
