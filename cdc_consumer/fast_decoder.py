"""Events of a whole batch at once, with pyruhvro and Arrow: no Python object per message or cell.

In: framed messages of one schema. Out: `Events`, equal to those of `reference_decoder`. A batch that pyruhvro
refuses is halved until the messages that it refuses stand alone; those get a second chance with fastavro.

pyruhvro trusts text to be UTF-8, so the columns that we use are checked here.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from cdc_consumer.envelope import Envelope
from cdc_consumer.events import (
    DETAILS,
    LOGICAL_MESSAGE,
    NO_IMAGE,
    NO_LSN,
    NOT_UTF8,
    PLACEHOLDER,
    ROW_SCHEMA,
    TRUNCATE,
    UNDECODABLE,
    UNKNOWN_MS,
    UNKNOWN_OP,
    Events,
    Positions,
    Verdict,
    merged,
)
from cdc_consumer.reference_decoder import ReferenceDecoder
from cdc_consumer.row_plan import NAMES, Image, RowPlan, moved_samples
from widetable.arrays import Index, Mask, mask, numbers, valid
from widetable.arrays import text as constant
from widetable.float8 import double_text
from widetable.narrow import FORMATS, VALUE_COLUMNS, Op
from widetable.values import bool_text, long_text

OPS: Final = pa.array([b"r", b"c", b"u", b"d", b"t", b"m"])  # the first four stand at their `Op`
TRUNCATE_OP, MESSAGE_OP, UNKNOWN = 4, 5, -1

AFTER_TEXTS: Final = (*NAMES, "value_format", "str_v")

# Why a message is no row, in rising order of precedence.
FINE, LSN_FAULT, IMAGE_FAULT, OP_FAULT, MESSAGE_FAULT, TRUNCATE_FAULT, TEXT_FAULT = range(7)
FAULT_VERDICTS: Final = {
    LSN_FAULT: (NO_LSN, DETAILS[NO_LSN]),
    IMAGE_FAULT: (NO_IMAGE, DETAILS[NO_IMAGE]),
    OP_FAULT: (UNDECODABLE, UNKNOWN_OP),
    TRUNCATE_FAULT: (TRUNCATE, DETAILS[TRUNCATE]),
    TEXT_FAULT: (UNDECODABLE, NOT_UTF8),
}


class FastDecoder:
    """Decodes batches.

    Args:
        placeholder: what Debezium sends for a long value that an update didn't touch.
    """

    def __init__(self, placeholder: str) -> None:
        self._hidden = constant(placeholder)
        self._reference = ReferenceDecoder(placeholder)
        self._second_chance = ReferenceDecoder(placeholder, strict=True)

    def events(self, values: list[bytes], positions: Positions, envelope: Envelope) -> Events:
        """The events of messages that `envelope` wrote; one that can't be decoded is a verdict."""
        if envelope.frame is None:
            return self._reference.events(values, positions, envelope)
        refused = _refused(values, envelope.frame)
        good = np.ones(len(values), np.bool_)
        good[refused] = False
        batch = pyruhvro.deserialize_array([values[place] for place in np.flatnonzero(good)], envelope.frame)
        events = self._events(batch, positions[good], envelope)
        if not refused:
            return events
        doubtful = [values[place] for place in refused]
        return merged([events, self._second_chance.events(doubtful, positions[refused], envelope)])

    def events_if_uniform(self, values: list[bytes | None], envelope: Envelope) -> Events | None:
        """The events of all messages in one go, or None: not all of them are good and of this schema."""
        if envelope.frame is None:
            return None
        try:
            batch = pyruhvro.deserialize_array(values, envelope.frame)
        except (ValueError, TypeError):
            return None
        schema_ids = np.asarray(batch.column("schema_id")).view(">u4")
        if batch.column("magic").true_count or (schema_ids != envelope.schema_id).any():
            return None
        return self._events(batch, np.arange(len(values)), envelope)

    def _events(self, batch: pa.RecordBatch, positions: Positions, envelope: Envelope) -> Events:
        ops = numbers(pc.index_in(batch.column("op").cast(pa.binary()), value_set=OPS), UNKNOWN)
        before = Image.of(batch.column("before"), envelope)
        after = Image.of(batch.column("after"), envelope)
        lsn, source_ms = (batch.column("source").field(name) for name in ("lsn", "ts_ms"))
        faults = _faults(ops, before, after, lsn)
        plan = RowPlan.of(ops, faults == FINE, moved_samples(ops, before, after))
        hidden = self._hides_value(after)[plan.message] & (plan.op != Op.DELETE)
        dropped = hidden & (plan.op == Op.UPDATE)
        filtered = Counter({LOGICAL_MESSAGE: _count(faults == MESSAGE_FAULT), PLACEHOLDER: _count(dropped)})
        verdicts = _verdicts(faults, positions) + _hidden_verdicts(
            plan.message[hidden & ~dropped], after, positions
        )
        return Events(
            _rows(plan.where(~hidden), before, after, lsn, source_ms, positions), verdicts, +filtered
        )

    def _hides_value(self, after: Image) -> Mask:
        """The messages whose value depends on a text that was not sent."""
        text = after.values.field("str_v")
        if text.null_count == len(text):
            return np.zeros(len(text), np.bool_)
        hidden = mask(pc.equal(text, self._hidden))
        for name, column in zip(FORMATS, VALUE_COLUMNS, strict=True) if hidden.any() else ():
            if column != "str_v":
                named = mask(pc.equal(after.values.field("value_format"), name))
                hidden &= ~(named & valid(after.values.field(column)))
        return hidden


def _refused(values: list[bytes], frame: str) -> list[int]:
    """The places of messages that pyruhvro refuses, found by halving what it refuses."""
    refused = []
    open_ranges = [(0, len(values))]
    while open_ranges:
        start, end = open_ranges.pop()
        if _accepts(values[start:end], frame):
            continue
        if end - start == 1:
            refused.append(start)
        else:
            middle = (start + end) // 2
            open_ranges += [(middle, end), (start, middle)]
    return refused


def _accepts(values: list[bytes], frame: str) -> bool:
    try:
        pyruhvro.deserialize_array(values, frame)
    except ValueError:
        return False
    return True


def _faults(ops: Index, before: Image, after: Image, lsn: pa.Int64Array) -> npt.NDArray[np.int8]:
    """Per message why it is no row, or `FINE`."""
    faults = np.full(len(ops), FINE, np.int8)
    if lsn.null_count:
        faults[~valid(lsn) & (ops != Op.READ)] = LSN_FAULT
    faults[~np.where(ops == Op.DELETE, before.present, after.present)] = IMAGE_FAULT
    faults[ops == UNKNOWN] = OP_FAULT
    faults[ops == MESSAGE_OP] = MESSAGE_FAULT
    faults[ops == TRUNCATE_OP] = TRUNCATE_FAULT
    for image, columns in ((before, NAMES), (after, AFTER_TEXTS)):
        for column in columns:
            _mark_broken_text(faults, image.values.field(column))
    return faults


def _mark_broken_text(faults: npt.NDArray[np.int8], texts: pa.StringArray) -> None:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        broken = [not _is_utf8(text) for text in texts.cast(pa.binary()).to_pylist()]
        faults[np.array(broken)] = TEXT_FAULT


def _is_utf8(text: bytes | None) -> bool:
    try:
        (text or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _verdicts(faults: npt.NDArray[np.int8], positions: Positions) -> list[Verdict]:
    faulty = np.flatnonzero((faults != FINE) & (faults != MESSAGE_FAULT))
    codes, places = faults[faulty].tolist(), positions[faulty].tolist()
    return [Verdict(place, *FAULT_VERDICTS[code]) for place, code in zip(places, codes, strict=True)]


def _hidden_verdicts(messages: Index, after: Image, positions: Positions) -> list[Verdict]:
    """Dead cells for samples whose value was not sent and that no row of the target can already hold."""
    return [
        Verdict(place, PLACEHOLDER, DETAILS[PLACEHOLDER], ship, channel, moment)
        for place, ship, channel, moment in zip(
            positions[messages].tolist(),
            after.ship.take(pa.array(messages)).to_pylist(),
            after.channel.take(pa.array(messages)).to_pylist(),
            after.moment_us[messages].tolist(),
            strict=True,
        )
    ]


def _rows(
    plan: RowPlan,
    before: Image,
    after: Image,
    lsn: pa.Int64Array,
    source_ms: pa.Int64Array,
    positions: Positions,
) -> pa.RecordBatch:
    versions = np.where(plan.op == Op.READ, 0, numbers(lsn)[plan.message])
    moments = np.where(plan.from_before, before.moment_us[plan.message], after.moment_us[plan.message])
    columns = [
        pa.array(positions[plan.message]),
        plan.coordinate(before.ship, after.ship),
        plan.coordinate(before.channel, after.channel),
        pa.array(moments),
        plan.value(after.values.field("value_format")),
        double_text(plan.value(after.values.field("double_v"))),
        long_text(plan.value(after.values.field("long_v"))),
        plan.value(after.values.field("str_v")),
        bool_text(plan.value(after.values.field("bool_v"))),
        pa.array(plan.op),
        pa.array(versions),
        pa.array(numbers(source_ms, UNKNOWN_MS)[plan.message]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
