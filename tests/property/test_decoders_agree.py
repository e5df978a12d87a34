"""The fast decoder and the reference decoder, on the same batches: rows, dead cells and counts must be equal."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.debezium_events import (
    MOMENT_US,
    PLACEHOLDER,
    VALUE_ID,
    VALUE_SCHEMA,
    change,
    changed_schema,
    cut,
    decoder,
    framed,
    key,
    records,
    sample,
)
from widetable.narrow import FORMATS, NARROW_SCHEMA

MILLISECONDS, BYTES_ADDED, RENAMED_OTHER = 11, 12, 13
SCHEMAS = {
    VALUE_ID: VALUE_SCHEMA,
    MILLISECONDS: changed_schema(created_time={"type": "long", "connect.name": "io.debezium.time.Timestamp"}),
    BYTES_ADDED: changed_schema(added=["null", "bytes"]),
    RENAMED_OTHER: changed_schema(id=None, server_created_time=None, note=["null", "string"]),
}

LONGS = st.integers(-(2**63), 2**63 - 1)
STRINGS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    [PLACEHOLDER, "", "\0", "\\N", '";--']
)
SHIPS = st.sampled_from(["IMO9976903", "IMO9976915", "imo9976915", "é" * 32])
MOMENTS = (
    st.sampled_from([MOMENT_US, MOMENT_US + 1, 9_223_372_036_825_200_000, -9_223_372_036_832_400_000]) | LONGS
)
SAMPLES = st.builds(
    sample,
    ship_id=SHIPS,
    data_channel_id=st.sampled_from(["/a", "/b", ""]) | STRINGS,
    created_time=MOMENTS,
    value_format=st.none() | st.sampled_from(FORMATS) | st.just("odd"),
    double_v=st.none() | st.floats(),
    long_v=st.none() | LONGS,
    str_v=st.none() | STRINGS,
    bool_v=st.none() | st.booleans(),
)
OPS = st.sampled_from("cccuuuddrmx")
EVENTS = st.builds(
    change, OPS, st.none() | SAMPLES, st.none() | SAMPLES, lsn=st.none() | LONGS | st.integers(0, 5)
)
MESSAGES = st.builds(
    lambda event, schema_id: framed(event, SCHEMAS[schema_id], schema_id),
    EVENTS,
    st.sampled_from(list(SCHEMAS)),
)
STRAYS = st.none() | st.binary(max_size=12) | st.just(framed(change("c", sample()), schema_id=99))
KEYS = st.sampled_from([key(), key("IMO2"), key(), key(), None, b"IMO"])


def both(values: list[bytes | None], keys: list[bytes | None] | None = None) -> list[Any]:
    """What each engine makes of a batch, as plain data; the fast one also when it knows the schema."""
    batch = records(values, keys)
    fast, reference = decoder("pyruhvro", SCHEMAS), decoder("fastavro", SCHEMAS)
    results = [fast.decode(batch), fast.decode(batch), reference.decode(batch)]
    for result in results:
        result.batch.validate(full=True)
        assert result.batch.schema == NARROW_SCHEMA
    return [(result.batch.to_pylist(), result.dead, result.filtered) for result in results]


@given(st.lists(st.tuples(MESSAGES | STRAYS, KEYS), max_size=12))
def test_both_decoders_make_the_same_of_any_batch(messages: list[tuple[bytes | None, bytes | None]]) -> None:
    """Hard values, all ops and images, four schemas, strays and bad keys, mixed in any order."""
    fast, fast_again, reference = both([value for value, _ in messages], [key for _, key in messages])
    assert fast == reference
    assert fast_again == reference


@given(st.lists(EVENTS, min_size=1, max_size=20))
def test_both_decoders_make_the_same_of_a_batch_of_one_schema(events: list[dict[str, Any]]) -> None:
    """The usual case, where the whole batch is decoded in one go."""
    fast, fast_again, reference = both([framed(event) for event in events])
    assert fast == reference
    assert fast_again == reference


@given(st.lists(EVENTS, max_size=12), st.data())
def test_batching_does_not_matter(events: list[dict[str, Any]], data: st.DataObject) -> None:
    """Each record becomes the same, wherever a batch is cut."""
    whole = records([framed(event) for event in events])
    middle = data.draw(st.integers(0, len(events)))
    result = decoder().decode(whole)
    parts = [decoder().decode(cut(whole, part)) for part in (slice(0, middle), slice(middle, None))]
    assert result.batch.to_pylist() == [row for part in parts for row in part.batch.to_pylist()]
    assert result.dead == [cell for part in parts for cell in part.dead]
