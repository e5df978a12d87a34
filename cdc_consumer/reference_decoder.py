"""Events one message at a time, with fastavro: plain enough to be read, and what the fast decoder must equal.

In: framed messages of one schema. Out: the same `Events` as from `fast_decoder`. It decodes what pyruhvro
can't: messages that it refuses, and schemas with types that it takes its unsafe way for.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import fastavro
import pyarrow as pa

from cdc_consumer.envelope import FRAME_BYTES, Envelope
from cdc_consumer.events import (
    DETAILS,
    FIRST_US,
    LAST_US,
    LOGICAL_MESSAGE,
    NO_IMAGE,
    NO_LSN,
    PLACEHOLDER,
    ROW_SCHEMA,
    TRUNCATE,
    UNDECODABLE,
    UNKNOWN_MS,
    UNKNOWN_OP,
    Events,
    Positions,
    Verdict,
)
from widetable.float8 import exact_text
from widetable.narrow import FORMATS, VALUE_COLUMNS, Op

Row = dict[str, Any]
Image = dict[str, Any]
Outcome = Row | Verdict | str
"""A row, or what became of the message instead; a string is the reason why it was filtered."""

OPS: Final = {"r": Op.READ, "c": Op.CREATE, "u": Op.UPDATE, "d": Op.DELETE}
COORDINATES: Final = ("ship_id", "data_channel_id", "created_time")
VALUES: Final = ("value_format", *VALUE_COLUMNS)
BROKEN: Final = (ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError)
"""What fastavro raises where bytes are not of the schema."""


class ReferenceDecoder:
    """Decodes message by message.

    Args:
        placeholder: what Debezium sends for a long value that an update didn't touch.
        strict: believe only bytes that fastavro would write itself; some broken ones it reads without a word.
    """

    def __init__(self, placeholder: str, *, strict: bool = False) -> None:
        self._placeholder = placeholder
        self._strict = strict

    def events(self, values: list[bytes], positions: Positions, envelope: Envelope) -> Events:
        """The events of framed messages; one that can't be decoded is a verdict."""
        places = zip(values, positions.tolist(), strict=True)
        return collected(
            outcome for value, place in places for outcome in self._outcomes(value, place, envelope)
        )

    def _outcomes(self, value: bytes, position: int, envelope: Envelope) -> Iterator[Outcome]:
        try:
            event = self._decode(value, envelope)
        except BROKEN as error:
            yield Verdict(position, UNDECODABLE, f"not a message of schema {envelope.schema_id}: {error!r}")
            return
        yield from self.outcomes(event, position, envelope.microseconds_per_tick)

    def outcomes(self, event: dict[str, Any], position: int, microseconds_per_tick: int) -> Iterator[Outcome]:
        """What becomes of a decoded event: rows, a verdict, or why it ends here on purpose."""
        op, lsn = event["op"], (event["source"] or {}).get("lsn")
        before, after = (_with_moment_us(event[side], microseconds_per_tick) for side in ("before", "after"))
        if op == "t":
            yield Verdict(position, TRUNCATE, DETAILS[TRUNCATE])
        elif op == "m":
            yield LOGICAL_MESSAGE
        elif op not in OPS:
            yield Verdict(position, UNDECODABLE, UNKNOWN_OP)
        elif not _has_coordinates(before if op == "d" else after):
            yield Verdict(position, NO_IMAGE, DETAILS[NO_IMAGE])
        elif op != "r" and lsn is None:
            yield Verdict(position, NO_LSN, DETAILS[NO_LSN])
        else:
            source_ms = (event["source"] or {}).get("ts_ms")
            place = {
                "position": position,
                "lsn": 0 if op == "r" else lsn,
                "source_ms": UNKNOWN_MS if source_ms is None else source_ms,
            }
            yield from self._change(OPS[op], place, before, after)

    def _decode(self, value: bytes, envelope: Envelope) -> dict[str, Any]:
        # Text that nobody needs may be broken; what is needed is encoded once more to see that it is not.
        event: Any = fastavro.schemaless_reader(
            io.BytesIO(value[FRAME_BYTES:]), envelope.body, None, handle_unicode_errors="surrogateescape"
        )
        for image, columns in ((event["before"], COORDINATES), (event["after"], (*COORDINATES, *VALUES))):
            for column in columns if image else ():
                str(image[column]).encode()
        if self._strict:
            again = io.BytesIO()
            fastavro.schemaless_writer(again, envelope.body, event)
            if not value.startswith(again.getvalue(), FRAME_BYTES):
                raise ValueError("an Avro writer would not have written these bytes")
        return dict(event)

    def _change(self, op: Op, place: Row, before: Image, after: Image) -> Iterator[Outcome]:
        if op is Op.DELETE:
            yield _row(op, place, before, {})
            return
        if op is Op.UPDATE and _has_coordinates(before) and _coordinates(before) != _coordinates(after):
            yield _row(Op.DELETE, place, before, {})
            op = Op.CREATE
        if not self._hides_value(after):
            yield _row(op, place, after, after)
        elif op is Op.UPDATE:
            yield PLACEHOLDER
        else:
            yield Verdict(place["position"], PLACEHOLDER, DETAILS[PLACEHOLDER], *_coordinates(after))

    def _hides_value(self, after: Image) -> bool:
        """Whether the sample's value depends on a text that was not sent."""
        return after["str_v"] == self._placeholder and not _names_another_value(after)


def _names_another_value(after: Image) -> bool:
    """Whether value_format names a column other than the text's, and that column is set."""
    for name, column in zip(FORMATS, VALUE_COLUMNS, strict=True):
        if after["value_format"] == name:
            return column != "str_v" and after[column] is not None
    return False


def collected(outcomes: Iterable[Outcome]) -> Events:
    """All outcomes of a batch, sorted by what they are."""
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    filtered: Counter[str] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, Verdict):
            verdicts.append(outcome)
        elif isinstance(outcome, str):
            filtered[outcome] += 1
        else:
            rows.append(outcome)
    return Events(pa.RecordBatch.from_pylist(rows, ROW_SCHEMA), verdicts, filtered)


def _with_moment_us(image: Image | None, microseconds_per_tick: int) -> Image:
    if image is None:
        return {}
    moment = image["created_time"]
    if moment is not None and microseconds_per_tick > 1:
        moment = min(max(moment * microseconds_per_tick, FIRST_US), LAST_US)
    return {**image, "created_time": moment}


def _coordinates(image: Image) -> tuple[Any, Any, Any]:
    return image.get("ship_id"), image.get("data_channel_id"), image.get("created_time")


def _has_coordinates(image: Image) -> bool:
    return None not in _coordinates(image)


def _row(op: Op, place: Row, image: Image, values: Image) -> Row:
    """A row with the coordinates of `image`; a delete has no `values`."""
    double, long, boolean = values.get("double_v"), values.get("long_v"), values.get("bool_v")
    return {
        **place,
        "ship_id": image["ship_id"],
        "channel_id": image["data_channel_id"],
        "created_time": image["created_time"],
        "value_format": values.get("value_format"),
        "double_v": None if double is None else exact_text(double),
        "long_v": None if long is None else str(long),
        "str_v": values.get("str_v"),
        "bool_v": None if boolean is None else str(boolean).lower(),
        "op": int(op),
    }
