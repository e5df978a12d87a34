"""JSON, and flattened rows: read one message at a time, and then decided by the same code as Debezium's Avro.

In: `Records` as JSON of Connect's JsonConverter (with schemas or without), or rows that ExtractNewRecordState
has flattened, in JSON or Avro. Out: `Decoded`, equal to what the same events give as Avro. Plain rather than
fast: about a tenth of the speed of `fast_decoder`.

A flattened row has lost its envelope. What no rule of cells can do without must come as added fields
(`add.fields`): the operation, its position in the log, and the coordinates before a change of key.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, Final, Literal

import fastavro

from cdc_consumer.decoder import Decoder, schema_id_of
from cdc_consumer.envelope import (
    ENVELOPE_FIELDS,
    FRAME_BYTES,
    MICROSECONDS_PER_TICK,
    NEEDED_COLUMNS,
    NOT_FLATTENED,
    FlatSchema,
    StrayError,
    read_flat_schema,
    require_ship_key,
)
from cdc_consumer.events import UNDECODABLE, Events, Verdict
from cdc_consumer.records import EpochOf
from cdc_consumer.reference_decoder import BROKEN, COORDINATES, Outcome, ReferenceDecoder, collected
from cdc_consumer.registry import SchemaSource
from cdc_consumer.settings import TopicSettings
from widetable.errors import ConfigurationError, PoisonError

JsonObject = dict[str, Any]
Format = Literal["avro", "json"]
Shape = Literal["debezium", "flat"]

ADDED: Final = {
    "__op": "op",
    "__source_lsn": "source.lsn",
    "__source_ts_ms": "source.ts_ms",
    "__before_data_channel_id": "before.data_channel_id",
    "__before_created_time": "before.created_time",
}
"""What a flattened row must carry besides its columns, and how `add.fields` calls it."""
MAGIC: Final = b"\0"
NUMBERS: Final = frozenset({"NaN", "Infinity", "-Infinity"})
"""How JSON has the doubles that it has no number for."""


def open_decoder(
    topic: TopicSettings, schemas: SchemaSource, placeholder: str, epochs: EpochOf, table: str
) -> Decoder:
    """The decoder for a topic as the settings describe it."""
    if topic.format == "avro" and topic.envelope == "debezium":
        return Decoder(schemas, placeholder, epochs, table=table)
    return PlainDecoder(schemas, placeholder, epochs, table, topic.format, topic.envelope)


class PlainDecoder(Decoder):
    """Decodes what is not Debezium's envelope in Avro; its arguments are `Decoder`'s, and the topic's two."""

    def __init__(
        self, schemas: SchemaSource, placeholder: str, epochs: EpochOf, table: str, text: Format, shape: Shape
    ) -> None:
        super().__init__(schemas, placeholder, epochs, "fastavro", table)
        self._reference = ReferenceDecoder(placeholder)
        self._json, self._flat = text == "json", shape == "flat"
        self._flat_schemas: dict[int, FlatSchema] = {}

    # -- values ------------------------------------------------------------------------------------------

    def _events(self, values: list[bytes | None]) -> Events:
        return collected(
            outcome for place, value in enumerate(values) for outcome in self._outcomes(value, place)
        )

    def _outcomes(self, value: bytes | None, position: int) -> Iterator[Outcome]:
        try:
            content, ticks = self._content(value)
            event = self._event(content)
            for image in (event["before"], event["after"]):
                _check_text(image)
            yield from self._reference.outcomes(event, position, ticks)
        except StrayError as error:
            yield Verdict(position, error.reason, str(error))
        except PoisonError as error:
            yield Verdict(position, "unknown_schema", str(error))
        except BROKEN as error:
            yield Verdict(position, UNDECODABLE, f"not a message of this topic: {error!r}")

    def _content(self, value: bytes | None) -> tuple[JsonObject, int]:
        """The message as plain values, and the unit of its moments in microseconds."""
        if value is None:
            raise StrayError("tombstone", "a null value; set tombstones.on.delete=false on the connector")
        if self._json:
            content, schema = read_json(value)
            return content, self._ticks(schema)
        schema_id = schema_id_of(value[:FRAME_BYTES])
        if schema_id not in self._flat_schemas:
            text = self._schemas.schema(schema_id)
            self._flat_schemas[schema_id] = read_flat_schema(schema_id, text, self._table)
        known = self._flat_schemas[schema_id]
        row: Any = fastavro.schemaless_reader(io.BytesIO(value[FRAME_BYTES:]), known.body, None)
        return row, known.microseconds_per_tick

    def _event(self, content: JsonObject) -> JsonObject:
        """The message as Debezium's envelope, its values of the types that Avro would have."""
        event = self._unflattened(content) if self._flat else self._enveloped(content)
        return event | {side: _typed(event[side]) for side in ("before", "after")}

    def _enveloped(self, content: JsonObject) -> JsonObject:
        if not content.keys() >= set(ENVELOPE_FIELDS):
            if {"ship_id", "data_channel_id"} <= content.keys():
                detail = "a row without Debezium's envelope: set CDC_TOPIC__ENVELOPE=flat, or remove"
                raise StrayError("flattened", f"{detail} ExtractNewRecordState from the connector")
            raise StrayError("foreign_schema", f"JSON with {', '.join(content)} is no change event")
        source = content["source"] or {}
        if not {"lsn", "ts_ms"} <= source.keys():
            raise ConfigurationError(
                f"events of {self._table}: `source` has no lsn or ts_ms; are these events of PostgreSQL's"
                " connector?"
            )
        name = f"{source.get('schema')}.{source.get('table')}"
        if name != self._table:
            raise StrayError("other_table", f"a change of {name}, not of {self._table}")
        for side in ("before", "after"):
            self._require_columns(content[side], side)
        return content

    def _unflattened(self, row: JsonObject) -> JsonObject:
        if row.keys() >= set(ENVELOPE_FIELDS):
            raise StrayError("not_flattened", NOT_FLATTENED)
        if not {"ship_id", "data_channel_id"} <= row.keys():
            raise StrayError("foreign_schema", f"{', '.join(row)} are no row of {self._table}")
        if missing := [name for name in (*ADDED, "__deleted") if name not in row]:
            raise ConfigurationError(
                f"flattened rows of {self._table} lack {', '.join(missing)}: set"
                f" add.fields={','.join(ADDED.values())} and delete.tombstone.handling.mode=rewrite on"
                " ExtractNewRecordState. Without them deletes, changes of a key and the order of changes are lost"
            )
        self._require_columns(row, "the row")
        deleted = row["__deleted"] in ("true", True)
        before = {name: row.get(f"__before_{name}") for name in COORDINATES}
        if before["ship_id"] is None:  # a change of the ship is a delete and a create: it is part of the key
            before["ship_id"] = row["ship_id"]
        return {
            "before": row if deleted else before,
            "after": None if deleted else row,
            "source": {"lsn": row["__source_lsn"], "ts_ms": row["__source_ts_ms"]},
            "op": "d" if deleted else row["__op"],
        }

    def _require_columns(self, image: JsonObject | None, side: str) -> None:
        for column in NEEDED_COLUMNS if image is not None else ():
            if column not in (image or {}):
                raise ConfigurationError(
                    f"{self._table}: `{side}` has no column {column}. Was it renamed or dropped on the source, or"
                    " left out by column.include.list or column.exclude.list of the connector? Put it back"
                )

    def _ticks(self, schema: JsonObject | None) -> int:
        """The unit of created_time: as its schema says, or microseconds, as `init` sets the connector up."""
        names = [*_names_of_created_time(schema)] if schema else []
        for name in names:
            if name not in MICROSECONDS_PER_TICK:
                raise ConfigurationError(
                    f"{self._table}: created_time arrives as {name or 'a type without a name'}; set"
                    " time.precision.mode=microseconds on the connector, and timestamp without time zone on the"
                    " source"
                )
        return MICROSECONDS_PER_TICK[names[0]] if names else 1

    # -- keys ----------------------------------------------------------------------------------------------

    def _key_part(self, key: bytes | None) -> bytes | None:
        return key if self._json else super()._key_part(key)

    def _check_key(self, frame: bytes) -> None:
        if not self._json:
            super()._check_key(frame)
            return
        try:
            content, _ = read_json(frame)
        except ValueError as error:
            raise StrayError("bad_key", f"not JSON: {error}") from error
        types = {name: "string" if isinstance(value, str) else "other" for name, value in content.items()}
        require_ship_key(types, "JSON")


def read_json(message: bytes) -> tuple[JsonObject, JsonObject | None]:
    """A message of Connect's JsonConverter: its content, and its schema where `schemas.enable` is on.

    Raises:
        StrayError: Avro, a tombstone, or JSON that is no object.
        ValueError: not JSON, or not UTF-8.
    """
    if message.startswith(MAGIC):
        detail = "Avro instead of JSON; set CDC_TOPIC__FORMAT=avro, or check the connector's converters"
        raise StrayError("avro", detail)
    content, schema = json.loads(message.decode("utf-8")), None
    if isinstance(content, dict) and content.keys() == {"schema", "payload"}:
        content, schema = content["payload"], content["schema"]
    if content is None:
        raise StrayError("tombstone", "a null value; set tombstones.on.delete=false on the connector")
    if not isinstance(content, dict):
        raise StrayError("foreign_schema", "JSON that is no object, so no change event")
    return content, schema


def _names_of_created_time(schema: JsonObject) -> Iterator[str]:
    """The semantic type of each created_time that a schema of Connect has, envelope or not."""
    for field in schema.get("fields") or ():
        if field.get("field") == "created_time":
            yield str(field.get("name", ""))
        elif field.get("field") in ("before", "after"):
            yield from _names_of_created_time(field)


def _typed(image: JsonObject | None) -> JsonObject | None:
    """The image with its doubles as floats.

    Raises:
        ValueError: a value has another type than its column.
    """
    if image is None:
        return None
    double = image.get("double_v")
    if double in NUMBERS or (isinstance(double, int) and not isinstance(double, bool)):
        image = image | {"double_v": float(double)}
    for column, kind in KINDS.items():
        value = image.get(column)
        if value is not None and type(value) is not kind:
            raise ValueError(f"{column} is {type(value).__name__}, not {kind.__name__}")
    for column in ("created_time", "long_v"):
        if not LEAST <= (image.get(column) or 0) <= MOST:
            raise ValueError(f"{column} is no 64-bit integer")
    return image


KINDS: Final[dict[str, type]] = {
    "ship_id": str, "data_channel_id": str, "created_time": int, "value_format": str,
    "double_v": float, "long_v": int, "str_v": str, "bool_v": bool,
}  # fmt: skip
LEAST, MOST = -(2**63), 2**63 - 1


def _check_text(image: JsonObject | None) -> None:
    """Raise ValueError where a text is not Unicode: JSON can spell half a character."""
    for column in NEEDED_COLUMNS if image else ():
        str((image or {}).get(column)).encode()
