"""What the decoders must know of a schema before they trust a message that it wrote.

In: the text of a writer schema, as the registry has it. Out: an `Envelope`, checked once per schema id to be
Debezium's change event of the narrow table with every column we need, of the type we need. A schema of
something else makes its messages strays (dead cells); a narrow table that lost a column is a configuration
error, because each of its events would be misread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, NoReturn

from fastavro import parse_schema
from fastavro.schema import SchemaParseException, expand_schema

from widetable.errors import ConfigurationError, PoisonError

COORDINATE_COLUMNS: Final = {"ship_id": "string", "data_channel_id": "string", "created_time": "long"}
VALUE_COLUMNS: Final = {
    "value_format": "string",
    "double_v": "double",
    "long_v": "long",
    "str_v": "string",
    "bool_v": "boolean",
}
NEEDED_COLUMNS: Final = COORDINATE_COLUMNS | VALUE_COLUMNS
ENVELOPE_FIELDS: Final = ("before", "after", "source", "op")

MICROSECONDS_PER_TICK: Final = {"io.debezium.time.MicroTimestamp": 1, "io.debezium.time.Timestamp": 1000}

# Types that pyruhvro decodes without building a value tree. Arrays, maps, bytes and fixed take its other way,
# which skips what it can't append: such schemas are decoded with fastavro.
DIRECT_TYPES: Final = frozenset({"boolean", "int", "long", "float", "double", "string"})

# A Confluent frame is a zero byte and a 4-byte id: exactly an Avro boolean and an Avro float. With both in
# the schema, a message is decoded as it is, without a copy of what follows the frame.
FRAME_FIELDS: Final = ({"name": "magic", "type": "boolean"}, {"name": "schema_id", "type": "float"})
FRAME_BYTES: Final = 5

BAD_SCHEMA: Final = (SchemaParseException, ValueError, TypeError, LookupError, RecursionError)
"""What fastavro raises at a schema that is none, or deeper than Python follows."""

NOT_FLATTENED: Final = (
    "an event in Debezium's envelope instead of a flattened row: set CDC_TOPIC__ENVELOPE=debezium, or add"
    " ExtractNewRecordState to the connector"
)
TRANSACTION_FIELDS: Final = {"status", "id", "event_count"}


class StrayError(PoisonError):
    """A message that is no change event of the narrow table; `reason` goes into its dead cell."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Envelope:
    """A writer schema that carries changes of the narrow table.

    Attributes:
        schema_id: its id in the registry.
        body: the schema up to the last field needed, parsed by fastavro; reads what follows the frame.
        frame: the same with the frame's two fields in front, as text for pyruhvro; None where pyruhvro can't
            be trusted with its types.
        microseconds_per_tick: the unit of created_time.
    """

    schema_id: int
    body: Any
    frame: str | None
    microseconds_per_tick: int


def read_envelope(schema_id: int, text: str, table: str) -> Envelope:
    """Check a writer schema and prepare it for decoding.

    Args:
        schema_id: its id.
        text: the schema as JSON.
        table: the narrow table, ``schema.table``.

    Raises:
        StrayError: it describes something else than changes of the narrow table.
        ConfigurationError: it does, but a column is missing or has a type or unit that can't be used.
    """
    schema = _expanded(schema_id, text)
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    if not fields.keys() >= set(ENVELOPE_FIELDS):
        _refuse(schema["name"], fields)
    if not _names_table(schema["name"], table):
        raise StrayError("other_table", f"a change of {schema['name']}, not of {table}")
    for side in ("before", "after"):
        _check_columns(_record(fields[side]), side, f"schema {schema_id} of {table}")
    _check_source(_record(fields["source"]), schema_id)
    if fields["op"] != "string":
        raise ConfigurationError(
            f"schema {schema_id}: op is {_type_name(fields['op'])}, not string; is it Debezium's?"
        )
    needed = _until_last_needed(schema["fields"])
    ticks = MICROSECONDS_PER_TICK[_connect_name(_record(fields["after"])["created_time"])]
    return Envelope(schema_id, _parsed(schema_id, _record_of(needed)), _frame(needed), ticks)


def check_key(schema_id: int, text: str) -> None:
    """See that the key's schema is exactly the ship.

    Raises:
        ConfigurationError: it is not: then ships are not in one order each, and nothing may be applied.
    """
    try:
        columns = _record(_expanded(schema_id, text))
    except StrayError:
        columns = {}
    types = {name: _type_name(kind) for name, kind in columns.items()}
    require_ship_key(types, f"schema {schema_id}")


def require_ship_key(columns: Mapping[str, str], where: str) -> None:
    """See that these columns of a key, with their types, are exactly the ship.

    Raises:
        ConfigurationError: they are not.
    """
    if columns != {"ship_id": "string"}:
        message = (
            f"the message key holds {', '.join(columns) or 'no columns'} instead of ship_id alone "
            f"({where}): set message.key.columns=<schema>.<table>:ship_id on the connector, so that each "
            "ship is one order, and start a new epoch with `cdc-consumer teardown` and `cdc-consumer init`"
        )
        raise ConfigurationError(message)


@dataclass(frozen=True, slots=True)
class FlatSchema:
    """A writer schema of flattened rows, parsed by fastavro."""

    body: Any
    microseconds_per_tick: int


def read_flat_schema(schema_id: int, text: str, table: str) -> FlatSchema:
    """Check a writer schema of rows without Debezium's envelope.

    Raises:
        StrayError: it describes something else.
        ConfigurationError: a column is missing or has a type or unit that can't be used.
    """
    schema = _expanded(schema_id, text)
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    if fields.keys() >= set(ENVELOPE_FIELDS):
        raise StrayError("not_flattened", NOT_FLATTENED)
    if not {"ship_id", "data_channel_id"} <= fields.keys():
        raise StrayError("foreign_schema", f"{schema['name']} with {', '.join(fields)} is no row of {table}")
    _check_columns(fields, "the row", f"schema {schema_id} of {table}")
    ticks = MICROSECONDS_PER_TICK[_connect_name(fields["created_time"])]
    plain = _record_of([{"name": name, "type": _plain(kind, count(1))} for name, kind in fields.items()])
    return FlatSchema(_parsed(schema_id, plain), ticks)


# -- reading a schema -----------------------------------------------------------------------------------


def _expanded(schema_id: int, text: str) -> dict[str, Any]:
    """The schema with every named type written out where it is used."""
    try:
        schema = expand_schema(json.loads(text))
    except BAD_SCHEMA as error:
        raise StrayError("foreign_schema", f"schema {schema_id} is not valid Avro: {error!r}") from error
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise StrayError("foreign_schema", f"schema {schema_id} is no record, so no change event")
    return schema


def _refuse(name: str, fields: dict[str, Any]) -> NoReturn:
    if {"ship_id", "data_channel_id"} <= fields.keys():
        detail = (
            f"{name} is a row without Debezium's envelope: set CDC_TOPIC__ENVELOPE=flat, or remove"
            " ExtractNewRecordState from the connector"
        )
        raise StrayError("flattened", detail)
    if fields.keys() >= TRANSACTION_FIELDS:
        raise StrayError(
            "transaction_marker", f"{name} is a transaction marker; it belongs into its own topic"
        )
    raise StrayError("foreign_schema", f"{name} with {', '.join(fields)} is no change event")


def _names_table(name: str, table: str) -> bool:
    """Whether the envelope's name (prefix, schema, table) is the table's; Avro forbids some letters."""
    return _letters(name.rpartition(".")[0]).endswith(_letters(table))


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _check_columns(columns: dict[str, Any], side: str, where: str) -> None:
    for column, wanted in NEEDED_COLUMNS.items():
        if column not in columns:
            message = (
                f"{where}: `{side}` has no column {column}. Was it renamed or dropped on the source, or left "
                "out by column.include.list or column.exclude.list of the connector? Put it back"
            )
            raise ConfigurationError(message)
        if (found := _type_name(columns[column])) != wanted and column != "created_time":
            raise ConfigurationError(f"{where}: column {column} arrives as {found}; it must be {wanted}")
    unit = _connect_name(columns["created_time"])
    if unit not in MICROSECONDS_PER_TICK or _type_name(columns["created_time"]) != "long":
        message = (
            f"{where}: created_time arrives as {unit or _type_name(columns['created_time'])}; set "
            "time.precision.mode=microseconds on the connector, and timestamp without time zone on the source"
        )
        raise ConfigurationError(message)


def _check_source(columns: dict[str, Any], schema_id: int) -> None:
    for column in ("lsn", "ts_ms"):
        if _type_name(columns.get(column)) != "long":
            message = (
                f"schema {schema_id}: `source` has no {column}; are these events of PostgreSQL's connector?"
            )
            raise ConfigurationError(message)


def _present(schema: Any) -> Any:
    """The type of a value that is not null."""
    if isinstance(schema, list):
        others = [branch for branch in schema if branch != "null"]
        return others[0] if len(others) == 1 else schema
    return schema


def _type_name(schema: Any) -> str:
    found = _present(schema)
    return str(found["type"]) if isinstance(found, dict) else str(found)


def _connect_name(schema: Any) -> str:
    found = _present(schema)
    return str(found.get("connect.name", "")) if isinstance(found, dict) else ""


def _record(schema: Any) -> dict[str, Any]:
    """The fields of a record, by name; none if it is something else."""
    found = _present(schema)
    fields = found.get("fields", []) if isinstance(found, dict) else []
    return {field["name"]: field["type"] for field in fields}


# -- the schema to decode with --------------------------------------------------------------------------


def _until_last_needed(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fields up to the last that is needed: bytes that follow are never read."""
    names = [field["name"] for field in fields]
    last = max(names.index(name) for name in ENVELOPE_FIELDS)
    number = count(1)
    return [{"name": field["name"], "type": _plain(field["type"], number)} for field in fields[: last + 1]]


def _plain(schema: Any, number: count[int]) -> Any:
    """A type without annotations, each record under a name of its own.

    The bytes are the same. Decoders see no logical types, and pyruhvro, which takes its slow way where a
    schema refers to a named type, takes the fast one: 0.6 instead of 1.1 us per event.
    """
    if isinstance(schema, list):
        return [_plain(branch, number) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema["type"]
    if kind == "record":
        fields = [
            {"name": field["name"], "type": _plain(field["type"], number)} for field in schema["fields"]
        ]
        return _record_of(fields, f"record_{next(number)}")
    parts = {part: schema[part] for part in ("symbols", "size") if part in schema}
    parts |= {part: _plain(schema[part], number) for part in ("items", "values") if part in schema}
    if kind in ("enum", "fixed"):
        parts["name"] = f"{kind}_{next(number)}"
    return {"type": kind, **parts} if parts else kind


def _record_of(fields: list[dict[str, Any]], name: str = "event") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": fields}


def _parsed(schema_id: int, schema: dict[str, Any]) -> Any:
    try:
        return parse_schema(schema)
    except BAD_SCHEMA as error:
        raise StrayError("foreign_schema", f"schema {schema_id} refers to itself: {error!r}") from error


def _frame(fields: list[dict[str, Any]]) -> str | None:
    if not all(_is_direct(field["type"]) for field in fields):
        return None
    return json.dumps(_record_of([*FRAME_FIELDS, *fields], "frame"))


def _is_direct(schema: Any) -> bool:
    if isinstance(schema, dict):
        return schema["type"] == "record" and all(_is_direct(field["type"]) for field in schema["fields"])
    if isinstance(schema, list):
        others = [branch for branch in schema if branch != "null"]
        return len(schema) == len(others) + 1 and len(others) == 1 and _is_direct(others[0])
    return schema in DIRECT_TYPES
