"""Messages by any writer schema that the narrow table may come to have, and values of any size.

Both decoders make the same of them, and it is what was written; a column whose type has changed is refused by
name, never misread.
"""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_consumer.envelope import NEEDED_COLUMNS
from tests.debezium_events import KEY_ID, VALUE_SCHEMA, create, decoder, framed, key, records, sample
from tests.property.test_decoders_agree import SAMPLES
from widetable.errors import ConfigurationError

EVOLVED = 40
EXTRA: dict[str, tuple[Any, Any]] = {
    "a long": ("long", 7),
    "text": (["null", "string"], "text"),
    "bytes": ("bytes", b"\xff\0"),
    "an array": ({"type": "array", "items": "string"}, ["x"] * 5),
    "a map": ({"type": "map", "values": "long"}, {"a": 1}),
    "an enum": ({"type": "enum", "name": "colour", "symbols": ["RED", "BLUE"]}, "BLUE"),
    "a fixed": ({"type": "fixed", "name": "four", "size": 4}, b"abcd"),
}


def evolved(rng: random.Random, extras: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema with columns in another order, some added, with and without defaults; the added values."""
    schema = deepcopy(VALUE_SCHEMA)
    row = schema["fields"][0]["type"][1]
    row["fields"] = [f for f in row["fields"] if f["name"] in NEEDED_COLUMNS or rng.random() < 0.5]
    values = {}
    for number, extra in enumerate(extras):
        kind, values[f"extra_{number}"] = EXTRA[extra]
        if isinstance(kind, dict) and "name" in kind:
            kind = {**kind, "name": f"{kind['name']}_{number}"}
        row["fields"].append({"name": f"extra_{number}", "type": kind})
    for column in row["fields"]:
        if isinstance(column["type"], list) and column["type"][0] == "null" and rng.random() < 0.5:
            column["default"] = None
    rng.shuffle(row["fields"])
    return schema, values


def plain(engine: Any, schemas: dict[int, Any], values: list[bytes | None]) -> Any:
    """What an engine makes of the messages, the second time it sees the schema."""
    decode = decoder(engine, schemas).decode
    results = [decode(records(values)) for _ in range(2)]
    first, again = [(r.batch.to_pylist(), r.dead, r.filtered) for r in results]
    assert first == again
    return again


@given(
    st.lists(SAMPLES, min_size=1, max_size=5),
    st.lists(st.sampled_from(sorted(EXTRA)), max_size=4),
    st.integers(0, 1_000),
)
@settings(max_examples=100, deadline=None)
def test_columns_may_be_added_removed_and_reordered(
    rows: list[dict[str, Any]], extras: list[str], seed: int
) -> None:
    """Whatever stands around them, the columns that are needed are read as they were under the old schema."""
    schema, values = evolved(random.Random(seed), extras)
    old: list[bytes | None] = [framed(create(**row)) for row in rows]
    new: list[bytes | None] = [framed(create(**row, **values), schema, EVOLVED) for row in rows]
    wanted = plain("fastavro", {}, old)
    for engine in ("pyruhvro", "fastavro"):
        found = plain(engine, {EVOLVED: schema}, new)
        assert (found[0], found[2]) == (wanted[0], wanted[2])
        assert [(c.reason, c.partition, c.offset) for c in found[1]] == [
            (c.reason, c.partition, c.offset) for c in wanted[1]
        ]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("long_v", "int"),
        ("double_v", "float"),
        ("double_v", "long"),
        ("str_v", "bytes"),
        ("created_time", "int"),
    ],
)
@pytest.mark.parametrize("engine", ["pyruhvro", "fastavro"])
def test_a_promoted_type_is_refused_by_name(engine: Any, column: str, kind: str) -> None:
    """Avro would promote int to long silently; which column of the source changed is for a person to see."""
    schema = deepcopy(VALUE_SCHEMA)
    row = schema["fields"][0]["type"][1]
    row["fields"] = [f | {"type": ["null", kind]} if f["name"] == column else f for f in row["fields"]]
    with pytest.raises(ConfigurationError, match=column):
        decoder(engine, {EVOLVED: schema}).decode(records([framed(create(), schema_id=EVOLVED)]))


@pytest.mark.parametrize("engine", ["pyruhvro", "fastavro"])
def test_a_huge_text_arrives_whole_and_half_of_it_is_a_dead_cell(engine: Any) -> None:
    """Eight megabytes, beside a message that lost its second half."""
    text = "ä\n\t\\" * 1_600_000
    huge = framed(create(str_v=text, value_format="String"))
    result = decoder(engine).decode(
        records([framed(create()), huge, huge[: len(huge) // 2], framed(create())])
    )
    assert result.batch.column("offset").to_pylist() == [40, 41, 43]
    assert result.batch.column("str_v").to_pylist()[1] == text
    assert [(cell.reason, cell.partition, cell.offset) for cell in result.dead] == [("undecodable", 2, 42)]


@pytest.mark.parametrize("engine", ["pyruhvro", "fastavro"])
def test_a_length_that_no_message_has_is_a_dead_cell(engine: Any) -> None:
    """A string that says it is as long as memory, and one of negative length."""
    message = framed(create(data_channel_id="XXXX"))
    place = message.index(b"\x08XXXX")
    for length in (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x01", b"\xfe\xff\xff\xff\x0f"):
        broken = message[:place] + length + message[place + 1 :]
        result = decoder(engine).decode(records([message, broken, message]))
        assert [(cell.reason, cell.partition, cell.offset) for cell in result.dead] == [
            ("undecodable", 2, 41)
        ]
        assert result.batch.num_rows == 2


@pytest.mark.parametrize("engine", ["pyruhvro", "fastavro"])
def test_json_by_mistake_is_a_dead_cell_however_deep(engine: Any) -> None:
    """With schema and without, nested beyond what a parser would follow."""
    payload = {"before": None, "after": sample(), "op": "c"}
    values: list[bytes | None] = [
        json.dumps(payload).encode(),
        json.dumps({"schema": {"type": "struct"}, "payload": payload}).encode(),
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 100_000,
    ]
    result = decoder(engine).decode(records([*values, framed(create())]))
    assert [(cell.reason, cell.offset) for cell in result.dead] == [
        ("json", 40 + i) for i in range(len(values))
    ]
    assert result.batch.column("offset").to_pylist() == [44]


def nested(depth: int) -> dict[str, Any]:
    """A column of records within records."""
    kind: Any = "long"
    for level in range(depth):
        kind = {"type": "record", "name": f"level_{level}", "fields": [{"name": "in", "type": kind}]}
    schema = deepcopy(VALUE_SCHEMA)
    schema["fields"][0]["type"][1]["fields"].append({"name": "deep", "type": kind})
    return schema


@pytest.mark.parametrize("engine", ["pyruhvro", "fastavro"])
def test_a_deeply_nested_column_is_passed_over(engine: Any) -> None:
    """Forty records deep."""
    value: Any = 1
    for _ in range(40):
        value = {"in": value}
    schema = nested(40)
    found = plain(engine, {EVOLVED: schema}, [framed(create(deep=value), schema, EVOLVED)])
    assert found == plain("fastavro", {}, [framed(create())])


@pytest.mark.parametrize("engine", ["pyruhvro", "fastavro"])
def test_a_schema_without_a_bottom_costs_its_own_messages_only(engine: Any) -> None:
    """Deeper than any parser follows: strays, not a crash."""

    class Endless:
        """A registry that answers with it."""

        def schema(self, schema_id: int) -> str:
            """The real schemas, and one that no parser survives."""
            if schema_id == EVOLVED:
                return '{"type":"array","items":' * 5_000 + '"long"' + "}" * 5_000
            return json.dumps(VALUE_SCHEMA)

    decode = decoder(engine)
    decode._schemas = Endless()
    decode._good_key_frames = {key()[:5]}
    assert key()[1:5] == KEY_ID.to_bytes(4, "big")
    result = decode.decode(records([framed(create()), framed(create(), schema_id=EVOLVED)]))
    assert [(cell.reason, cell.offset) for cell in result.dead] == [("foreign_schema", 41)]
    assert result.batch.num_rows == 1
