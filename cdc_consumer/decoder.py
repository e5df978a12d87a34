"""Kafka records to a `NarrowBatch`: the live spring of the river.

In: `Records`, Debezium's change events in Avro under Confluent's framing. Out: `Decoded`. Every record is a
row, a dead cell with its coordinates and bytes, or counted as filtered; a bad one costs no other. Only what
would make *every* record wrong is raised: a lost column, a key that is not the ship, a truncate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc_consumer.envelope import FRAME_BYTES, Envelope, StrayError, check_key, read_envelope
from cdc_consumer.events import TRUNCATE, EventDecoder, Events, Verdict, merged, no_rows
from cdc_consumer.fast_decoder import FastDecoder
from cdc_consumer.records import EpochOf, Epochs, Records
from cdc_consumer.reference_decoder import ReferenceDecoder
from cdc_consumer.registry import SchemaSource
from widetable.errors import ConfigurationError, PoisonError, StoppedError
from widetable.narrow import NARROW_SCHEMA, DeadCell, Decoded, Op

__all__ = ["Decoder", "Engine", "EpochOf", "Epochs", "Records", "TruncateError"]

Engine = Literal["pyruhvro", "fastavro"]

MAGIC: Final = 0
JSON_STARTS: Final = (b"{", b"[", b'"')


class TruncateError(StoppedError):
    """The source table was truncated; applying it is for a person to decide.

    `Records.before(partition, offset)` are those that can be applied before stopping.
    """

    def __init__(self, partition: int, offset: int) -> None:
        super().__init__(
            f"the source table was truncated (partition {partition}, offset {offset}); the wide tables hold "
            'what they held. Decide what they shall hold (docs/operations.md, "After a TRUNCATE at the source"), '
            "then pass this record with `cdc-consumer resume --after-truncate`"
        )
        self.partition = partition
        self.offset = offset


class Decoder:
    """Decodes batches of records; one per process, as it remembers the schemas that it has checked.

    Args:
        schemas: where writer schemas come from.
        placeholder: the connector's unavailable.value.placeholder.
        epochs: finds each record's epoch.
        engine: pyruhvro for speed, or fastavro, the reference.
        table: the narrow table, ``schema.table``.
    """

    def __init__(
        self,
        schemas: SchemaSource,
        placeholder: str,
        epochs: EpochOf,
        engine: Engine = "pyruhvro",
        table: str = "tenant.tbl_data_timeseries",
    ) -> None:
        self._schemas = schemas
        self._epochs = epochs
        self._table = table
        self._fast = FastDecoder(placeholder) if engine == "pyruhvro" else None
        self._decoder: EventDecoder = self._fast or ReferenceDecoder(placeholder)
        self._envelopes: dict[int, Envelope] = {}
        self._usual: Envelope | None = None
        self._good_key_frames: set[bytes] = set()

    @property
    def schemas_known(self) -> int:
        """Writer schemas that were checked and are kept."""
        return len(self._envelopes)

    def decode(self, records: Records) -> Decoded:
        """Make rows of the records.

        Raises:
            TruncateError: one of the records is a truncate.
            ConfigurationError: events lack a column, or keys are not the ship.
            UnreachableError: a schema can't be had at present.
        """
        events = self._events(records.values)
        events = self._with_good_keys(events, records.keys)
        verdicts = sorted(events.verdicts, key=lambda verdict: verdict.position)
        for verdict in verdicts:
            if verdict.reason == TRUNCATE:
                row = verdict.position
                raise TruncateError(int(records.partitions[row]), int(records.offsets[row]))
        dead = [_dead_cell(verdict, records) for verdict in verdicts]
        return Decoded(self._narrow_batch(events.rows, records), dead, dict(events.filtered))

    # -- messages to events -----------------------------------------------------------------------------

    def _events(self, values: list[bytes | None]) -> Events:
        """All messages at once if one schema, the usual one, wrote them all; else by schema."""
        usual = self._usual or self._guess(values)
        if self._fast and usual and (events := self._fast.events_if_uniform(values, usual)):
            self._usual = usual
            return events
        return merged(self._events_by_schema(values))

    def _guess(self, values: list[bytes | None]) -> Envelope | None:
        """The schema of the first message, before any is the usual one."""
        try:
            return self._envelope(schema_id_of(_frame(values[0]))) if values else None
        except PoisonError:
            return None

    def _events_by_schema(self, values: list[bytes | None]) -> Iterator[Events]:
        frames: dict[bytes | None, list[int]] = {}
        for position, value in enumerate(values):
            frames.setdefault(_frame(value), []).append(position)
        for frame, positions in frames.items():
            try:
                envelope = self._envelope(schema_id_of(frame))
            except PoisonError as error:
                yield _strays(error, positions)
            else:
                self._usual = envelope
                group = [value for position in positions if (value := values[position])]
                yield self._decoder.events(group, np.array(positions, np.int64), envelope)

    def _envelope(self, schema_id: int) -> Envelope:
        if schema_id not in self._envelopes:
            text = self._schemas.schema(schema_id)
            self._envelopes[schema_id] = read_envelope(schema_id, text, self._table)
        return self._envelopes[schema_id]

    # -- keys ---------------------------------------------------------------------------------------------

    def _with_good_keys(self, events: Events, keys: list[bytes | None]) -> Events:
        """Without the rows whose key is broken; unique keys decide, and nearly always all are good."""
        frames = {self._key_part(key) for key in set(keys)}
        faults = {
            frame: fault for frame in frames - self._good_key_frames if (fault := self._key_fault(frame))
        }
        if not faults:
            return events
        bad: dict[int, Verdict] = {}
        for position in np.asarray(events.rows.column("position")).tolist():
            match faults.get(self._key_part(keys[position])):
                case ConfigurationError() as fault:
                    raise fault
                case StrayError() as fault:
                    bad[position] = Verdict(position, fault.reason, str(fault))
        is_bad = pc.is_in(events.rows.column("position"), value_set=pa.array(bad, pa.int64()))
        return Events(
            events.rows.filter(pc.invert(is_bad)), [*events.verdicts, *bad.values()], events.filtered
        )

    def _key_fault(self, frame: bytes | None) -> StrayError | ConfigurationError | None:
        if frame is None:
            return StrayError("null_key", "the record has no key; set message.key.columns on the connector")
        try:
            self._check_key(frame)
        except PoisonError as error:
            return StrayError("bad_key", f"the key can't be read: {error}")
        except ConfigurationError as error:
            return error
        self._good_key_frames.add(frame)
        return None

    def _key_part(self, key: bytes | None) -> bytes | None:
        """What of a key decides whether it is good: the id of its schema."""
        return _frame(key)

    def _check_key(self, frame: bytes) -> None:
        schema_id = schema_id_of(frame)
        check_key(schema_id, self._schemas.schema(schema_id))

    # -- events to rows and dead cells ----------------------------------------------------------------------

    def _narrow_batch(self, rows: pa.RecordBatch, records: Records) -> pa.RecordBatch:
        """Add where each row stands in Kafka, and with it its epoch; snapshot reads have none."""
        positions = np.asarray(rows.column("position"))
        partitions, offsets = records.partitions[positions], records.offsets[positions]
        is_read = np.asarray(rows.column("op")) == Op.READ
        epochs = np.where(is_read, 0, self._epochs(partitions, offsets)).astype(np.int32)
        kafka = {
            "epoch": pa.array(epochs),
            "partition": pa.array(partitions),
            "offset": pa.array(offsets),
            "record_ms": pa.array(records.times_ms[positions]),
        }
        columns = [kafka[name] if name in kafka else rows.column(name) for name in NARROW_SCHEMA.names]
        return pa.RecordBatch.from_arrays(columns, schema=NARROW_SCHEMA)


def _frame(message: bytes | None) -> bytes | None:
    return None if message is None else message[:FRAME_BYTES]


def schema_id_of(frame: bytes | None) -> int:
    """The schema id in a Confluent frame.

    Raises:
        StrayError: it is none.
    """
    if frame is None:
        raise StrayError("tombstone", "a null value; set tombstones.on.delete=false on the connector")
    if frame.startswith(JSON_STARTS):
        detail = "JSON instead of Avro; set CDC_TOPIC__FORMAT=json, or check the connector's converters"
        raise StrayError("json", detail)
    if len(frame) < FRAME_BYTES or frame[0] != MAGIC:
        raise StrayError("not_avro", "no Confluent frame (a zero byte and a 4-byte schema id)")
    schema_id = int.from_bytes(frame[1:], "big")
    if schema_id == 0:
        detail = "schema id 0, which is Apicurio's 8-byte frame: set apicurio.registry.as-confluent=true"
        raise StrayError("apicurio_frame", detail)
    return schema_id


def _strays(error: PoisonError, positions: list[int]) -> Events:
    """The same verdict for each message of a schema that is not ours."""
    reason = error.reason if isinstance(error, StrayError) else "unknown_schema"
    return Events(no_rows(), [Verdict(position, reason, str(error)) for position in positions])


def _dead_cell(verdict: Verdict, records: Records) -> DeadCell:
    return DeadCell(
        verdict.reason,
        verdict.detail,
        int(records.partitions[verdict.position]),
        int(records.offsets[verdict.position]),
        verdict.ship_id,
        verdict.channel_id,
        verdict.created_time,
        records.keys[verdict.position],
        records.values[verdict.position],
    )
