"""JSON and flattened rows decode to what the same events give as Debezium's Avro."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_consumer.decoder import Epochs, TruncateError
from cdc_consumer.plain_decoder import Format, PlainDecoder, Shape, open_decoder
from cdc_consumer.settings import TopicSettings
from tests.debezium_events import (
    EPOCH,
    MOMENT_US,
    PLACEHOLDER,
    VALUE_SCHEMA,
    Schemas,
    change,
    create,
    decoder,
    framed,
    key,
    records,
    sample,
)
from tests.property.test_decoders_agree import EVENTS, SAMPLES
from widetable.errors import ConfigurationError

TABLE = "tenant.tbl_data_timeseries"
FLAT_ID = 21
ADDED = {
    "__op": ["null", "string"],
    "__source_lsn": ["null", "long"],
    "__source_ts_ms": ["null", "long"],
    "__before_data_channel_id": ["null", "string"],
    "__before_created_time": ["null", "long"],
    "__deleted": ["null", "string"],
}


def flat_schema() -> dict[str, Any]:
    """The schema of a flattened row: the columns, and what the transform adds."""
    row = VALUE_SCHEMA["fields"][0]["type"][1]
    more = [{"name": name, "type": kind} for name, kind in ADDED.items()]
    return {"type": "record", "name": "Flat", "namespace": "fleet", "fields": [*row["fields"], *more]}


def plain(text: Format, shape: Shape = "debezium") -> PlainDecoder:
    """A decoder for such a topic."""
    epochs = Epochs(((EPOCH, dict.fromkeys(range(64), 0)),))
    return PlainDecoder(Schemas({FLAT_ID: flat_schema()}), PLACEHOLDER, epochs, TABLE, text, shape)


def as_json(content: Any, *, schemas: bool = False) -> bytes:
    """A message as JsonConverter writes it; doubles without a number are text there."""
    if schemas:
        image = {"type": "struct", "field": "after", "fields": [{"field": "created_time", "name": MICRO}]}
        content = {"schema": {"type": "struct", "fields": [image]}, "payload": content}
    return json.dumps(spelled(content), ensure_ascii=False).encode()


MICRO = "io.debezium.time.MicroTimestamp"


def spelled(value: Any) -> Any:
    """Values as Jackson spells them."""
    match value:
        case dict():
            return {name: spelled(inner) for name, inner in value.items()}
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
    return value


def flattened(event: dict[str, Any]) -> dict[str, Any]:
    """An event as ExtractNewRecordState leaves it, with the fields that it was told to add."""
    before, after = event["before"], event["after"]
    return {
        **(after or before),
        "__op": event["op"],
        "__source_lsn": event["source"]["lsn"],
        "__source_ts_ms": event["source"]["ts_ms"],
        "__before_data_channel_id": before and before["data_channel_id"],
        "__before_created_time": before and before["created_time"],
        "__deleted": "true" if event["op"] == "d" else "false",
    }


def result(of: Any, values: list[bytes]) -> Any:
    """What a decoder makes of a batch, but for raw bytes and the wording of details."""
    json_keys = values and not values[0].startswith(b"\0")
    keys = [as_json({"ship_id": "IMO9976903"})] * len(values) if json_keys else None
    decoded = of.decode(records(values, keys))
    dead = [
        (cell.reason, cell.offset, cell.ship_id, cell.channel_id, cell.created_time) for cell in decoded.dead
    ]
    return decoded.batch.to_pylist(), dead, decoded.filtered


@given(st.lists(EVENTS, max_size=12))
@settings(max_examples=40, deadline=None)
def test_json_with_and_without_schemas_decodes_as_avro_does(events: list[dict[str, Any]]) -> None:
    """Hard values, all ops and images: the same rows to the letter, the same dead cells, the same counts."""
    wanted = result(decoder(), [framed(event) for event in events])
    for schemas in (False, True):
        assert result(plain("json"), [as_json(event, schemas=schemas) for event in events]) == wanted


CREATED = st.builds(change, st.sampled_from("cr"), SAMPLES, lsn=st.integers(0, 2**62))
DELETED = st.builds(lambda row, lsn: change("d", None, row, lsn=lsn), SAMPLES, st.integers(0, 2**62))
UPDATED = st.builds(
    lambda row, old, lsn: change("u", row, old and {**old, "ship_id": row["ship_id"]}, lsn=lsn),
    SAMPLES,
    st.none() | SAMPLES,
    st.integers(0, 2**62),
)


@given(st.lists(CREATED | DELETED | UPDATED, max_size=12))
@settings(max_examples=40, deadline=None)
def test_flattened_rows_decode_as_whole_events_do(events: list[dict[str, Any]]) -> None:
    """In JSON and in Avro; deletes, changes of a key and versions are all there."""
    wanted = result(decoder(), [framed(event) for event in events])
    rows = [flattened(event) for event in events]
    assert result(plain("json", "flat"), [as_json(row) for row in rows]) == wanted
    avro = [framed(row, flat_schema(), FLAT_ID) for row in rows]
    assert result(plain("avro", "flat"), avro) == wanted


def test_milliseconds_are_known_by_their_schema() -> None:
    """And a moment of another type stops the consumer before anything is misread."""
    event = json.loads(as_json(create(created_time=MOMENT_US // 1000), schemas=True))
    field = event["schema"]["fields"][0]["fields"][0]
    field["name"] = "io.debezium.time.Timestamp"
    rows, _, _ = result(plain("json"), [json.dumps(event).encode()])
    assert rows[0]["created_time"] == MOMENT_US
    field["name"] = "io.debezium.time.ZonedTimestamp"
    with pytest.raises(ConfigurationError, match=r"created_time arrives as .*ZonedTimestamp"):
        result(plain("json"), [json.dumps(event).encode()])


ROW = flattened(create())
TEXT_DOUBLE, TOO_LONG = as_json(create(double_v="1.5")), as_json(create(long_v=2**63))
ENVELOPE = "CDC_TOPIC__ENVELOPE=debezium"
HALF = as_json(create(str_v="x")).replace(b'"x"', b'"\\ud800"')


@pytest.mark.parametrize(
    ("text", "shape", "value", "reason", "named"),
    [
        pytest.param("json", "debezium", framed(create()), "avro", "CDC_TOPIC__FORMAT=avro", id="Avro for JSON"),
        pytest.param("avro", "flat", as_json(ROW), "json", "CDC_TOPIC__FORMAT=json", id="JSON for Avro"),
        pytest.param("json", "debezium", as_json(ROW), "flattened", "CDC_TOPIC__ENVELOPE=flat", id="a row"),
        pytest.param(
            "json", "flat", as_json(create()), "not_flattened", ENVELOPE, id="an event"
        ),
        pytest.param(
            "avro", "flat", framed(create()), "not_flattened", ENVELOPE, id="Avro for rows"
        ),
        pytest.param("json", "debezium", b"{", "undecodable", "not a message", id="half an object"),
        pytest.param("json", "debezium", b"\xff", "undecodable", "not a message", id="not UTF-8"),
        pytest.param("json", "debezium", b"[1]", "foreign_schema", "no object", id="a list"),
        pytest.param("json", "debezium", b'{"a": 1}', "foreign_schema", "no change event", id="another object"),
        pytest.param("json", "flat", b'{"a": 1}', "foreign_schema", "no row", id="another row"),
        pytest.param("json", "debezium", b"null", "tombstone", "null value", id="null"),
        pytest.param(
            "json",
            "debezium",
            as_json(create() | {"source": {"lsn": 1, "ts_ms": 1, "schema": "a", "table": "b"}}),
            "other_table",
            "a change of a.b",
            id="another table",
        ),
        pytest.param("json", "debezium", TEXT_DOUBLE, "undecodable", "double_v", id="text for a double"),
        pytest.param("json", "debezium", TOO_LONG, "undecodable", "64-bit", id="a long too long"),
        pytest.param("json", "debezium", HALF, "undecodable", "not a message", id="half a character"),
    ],
)  # fmt: skip
def test_what_is_of_another_shape_is_a_dead_letter_that_names_the_setting(
    text: Format, shape: Shape, value: bytes, reason: str, named: str
) -> None:
    """One such record costs no other; many in a row stop the consumer."""
    good = flattened(create()) if shape == "flat" else create()
    fine = framed(good, flat_schema(), FLAT_ID) if text == "avro" else as_json(good)
    of = plain(text, shape)
    keys = [key() if text == "avro" else as_json({"ship_id": "IMO9976903"})] * 2
    decoded = of.decode(records([value, fine], keys))
    (dead,) = decoded.dead
    assert (dead.reason, decoded.batch.num_rows) == (reason, 1)
    assert named in dead.detail


def test_avro_names_the_settings_for_json_and_for_rows() -> None:
    """As the decoder of the usual topic meets them."""
    of = open_decoder(TopicSettings(), Schemas({FLAT_ID: flat_schema()}), PLACEHOLDER, Epochs(()), TABLE)
    dead = of.decode(records([as_json(create()), framed(ROW, flat_schema(), FLAT_ID)])).dead
    assert "CDC_TOPIC__FORMAT=json" in dead[0].detail
    assert "CDC_TOPIC__ENVELOPE=flat" in dead[1].detail


@pytest.mark.parametrize("missing", ["__op", "__source_lsn", "__before_created_time", "__deleted"])
def test_rows_that_have_lost_what_no_rule_can_do_without_stop_the_consumer(missing: str) -> None:
    """With the transform's settings in the message."""
    row = {name: value for name, value in ROW.items() if name != missing}
    with pytest.raises(ConfigurationError, match=rf"lack {missing}: set add.fields=op,source.lsn"):
        result(plain("json", "flat"), [as_json(row)])


def test_a_lost_column_and_a_key_of_more_than_the_ship_stop_the_consumer() -> None:
    """As with Avro: each record would be wrong."""
    event = create()
    del event["after"]["value_format"]
    with pytest.raises(ConfigurationError, match="`after` has no column value_format"):
        result(plain("json"), [as_json(event)])
    with pytest.raises(ConfigurationError, match="has no lsn"):
        result(plain("json"), [as_json(create() | {"source": {}})])
    keys = [as_json({"ship_id": "X", "created_time": 1})]
    with pytest.raises(ConfigurationError, match="instead of ship_id alone"):
        plain("json").decode(records([as_json(create())], keys))
    bad = plain("json").decode(records([as_json(create())] * 2, [b"IMO", None]))
    assert [cell.reason for cell in bad.dead] == ["bad_key", "null_key"]
    with pytest.raises(TruncateError):
        result(plain("json"), [as_json(change("t"))])


def test_whole_numbers_are_doubles_all_the_same() -> None:
    """JSON of other writers may leave the point away."""
    value = as_json(create()).replace(b"1.5", b"100")
    rows, _, _ = result(plain("json"), [value])
    assert rows[0]["double_v"] == "100"
    assert sample()["double_v"] == 1.5
