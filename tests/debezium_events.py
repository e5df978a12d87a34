"""Debezium's events as bytes, written with the schemas that the real connector registered.

For tests of the decoders: samples, changes, framed messages, batches of records, and decoders that know both
schemas without a registry.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import fastavro
import numpy as np

from cdc_consumer.decoder import Decoder, Engine, Epochs, Records
from widetable.errors import PoisonError

DATA: Final = Path(__file__).parent / "data"
VALUE_SCHEMA: Final[dict[str, Any]] = json.loads((DATA / "debezium_value.avsc").read_text())
KEY_SCHEMA: Final[dict[str, Any]] = json.loads((DATA / "debezium_key.avsc").read_text())
VALUE_ID, KEY_ID = 6, 5
PLACEHOLDER: Final = "__unavailable_3f7c__"
MOMENT_US: Final = 1_760_000_000_000_000
EPOCH: Final = 3
COMMITTED_MS, RECEIVED_MS = MOMENT_US // 1000 + 70, MOMENT_US // 1000 + 90


class Schemas:
    """A schema source that is a dictionary, and counts how often it is asked."""

    def __init__(self, schemas: dict[int, Any] | None = None) -> None:
        self.schemas = {VALUE_ID: VALUE_SCHEMA, KEY_ID: KEY_SCHEMA} | (schemas or {})
        self.asked: list[int] = []

    def schema(self, schema_id: int) -> str:
        """The schema's text, or the error that a registry raises."""
        self.asked.append(schema_id)
        if schema_id not in self.schemas:
            raise PoisonError(f"no schema {schema_id}")
        return json.dumps(self.schemas[schema_id])


def decoder(engine: Engine = "pyruhvro", schemas: dict[int, Any] | None = None) -> Decoder:
    """A decoder that knows the real schemas, and `schemas` besides."""
    return Decoder(Schemas(schemas), PLACEHOLDER, Epochs(((EPOCH, dict.fromkeys(range(64), 0)),)), engine)


def sample(**columns: Any) -> dict[str, Any]:
    """A row of the narrow table: a Decimal of 1.5, unless told otherwise."""
    row = {
        "id": 1,
        "ship_id": "IMO9976903",
        "data_channel_id": "/a////bar/press",
        "created_time": MOMENT_US,
        "server_created_time": None,
        "bool_v": None,
        "str_v": None,
        "long_v": None,
        "double_v": None,
        "value_format": None,
    }
    if not columns.keys() & {"bool_v", "str_v", "long_v", "double_v"}:
        row |= {"value_format": "Decimal", "double_v": 1.5}
    return row | columns


def change(
    op: str, after: dict[str, Any] | None = None, before: dict[str, Any] | None = None, lsn: int | None = 100
) -> dict[str, Any]:
    """An event as Debezium's envelope."""
    source = {
        "version": "3.7.0.Final",
        "connector": "postgresql",
        "name": "fleet",
        "ts_ms": COMMITTED_MS,
        "snapshot": "false",
        "db": "ships",
        "sequence": '["1","2"]',
        "ts_us": 1,
        "ts_ns": 1,
        "schema": "tenant",
        "table": "tbl_data_timeseries",
        "txId": 7,
        "lsn": lsn,
        "xmin": None,
        "origin": None,
        "origin_lsn": None,
    }
    times = {"ts_ms": 1, "ts_us": 1, "ts_ns": 1}
    return {"before": before, "after": after, "source": source, "transaction": None, "op": op, **times}


def create(lsn: int = 100, **columns: Any) -> dict[str, Any]:
    """An insert of `sample(**columns)`."""
    return change("c", sample(**columns), lsn=lsn)


def framed(content: Any, schema: Any = VALUE_SCHEMA, schema_id: int = VALUE_ID) -> bytes:
    """A message under Confluent's framing."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(deepcopy(schema)), content)
    return struct.pack(">bI", 0, schema_id) + body.getvalue()


def key(ship: str = "IMO9976903") -> bytes:
    """The key of a ship's messages."""
    return framed({"ship_id": ship}, KEY_SCHEMA, KEY_ID)


def records(values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None) -> Records:
    """A batch of messages of partition 2 from offset 40 on."""
    count = len(values)
    keys = [key()] * count if keys is None else keys
    places = np.arange(count)
    return Records(list(values), list(keys), np.full(count, 2, np.int32), places + 40, places + RECEIVED_MS)


def cut(batch: Records, part: slice) -> Records:
    """A part of a batch."""
    return Records(
        batch.values[part],
        batch.keys[part],
        batch.partitions[part],
        batch.offsets[part],
        batch.times_ms[part],
    )


def changed_schema(**columns: Any) -> dict[str, Any]:
    """The value schema with columns of the narrow table replaced, added, or (None) dropped."""
    schema = deepcopy(VALUE_SCHEMA)
    row = schema["fields"][0]["type"][1]
    kept = [field for field in row["fields"] if field["name"] not in columns]
    row["fields"] = kept + [
        {"name": name, "type": kind} for name, kind in columns.items() if kind is not None
    ]
    return schema
