"""What both decoders make of messages: rows, and what became of the messages that yield none.

A row is a sample of the narrow table with its change; it becomes part of a `NarrowBatch` when the decoder
adds the Kafka coordinates and the epoch. `position` is the message's place in the batch of records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc_consumer.envelope import Envelope
from widetable.narrow import NARROW_SCHEMA

Positions = npt.NDArray[np.int64]

KAFKA_COLUMNS: Final = ("epoch", "partition", "offset", "record_ms")
ROW_SCHEMA: Final = pa.schema(
    [pa.field("position", pa.int64(), nullable=False)]
    + [column for column in NARROW_SCHEMA if column.name not in KAFKA_COLUMNS]
)

# Debezium sends infinity as these. A moment in milliseconds is held to them, so that it can't overflow.
FIRST_US, LAST_US = -9_223_372_036_832_400_000, 9_223_372_036_825_200_000

UNKNOWN_MS: Final = -1

UNDECODABLE: Final = "undecodable"
TRUNCATE: Final = "truncate"
NO_IMAGE: Final = "no_image"
NO_LSN: Final = "no_lsn"
PLACEHOLDER: Final = "placeholder"
LOGICAL_MESSAGE: Final = "logical_message"
DETAILS: Final = {
    TRUNCATE: "the source table was truncated",
    NO_IMAGE: "the event lacks the row that it changes, or that row's ship, channel or moment",
    NO_LSN: "source.lsn is null, so the change has no place in the order of changes",
    PLACEHOLDER: "the value is Debezium's placeholder for one that it was not sent; resync the cell",
}
NOT_UTF8: Final = "text that is not UTF-8"
UNKNOWN_OP: Final = "op is none of r, c, u, d, t, m"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A message, or a part of it, that can't be a row; becomes a dead cell, or a stop if it is a truncate."""

    position: int
    reason: str
    detail: str
    ship_id: str | None = None
    channel_id: str | None = None
    created_time: int | None = None


@dataclass(frozen=True, slots=True)
class Events:
    """Decoded messages.

    Attributes:
        rows: of `ROW_SCHEMA`, by position; a change of a sample's coordinates is two rows, the delete first.
        verdicts: the messages that are no rows and should be.
        filtered: how many messages end here on purpose, by reason.
    """

    rows: pa.RecordBatch
    verdicts: list[Verdict] = field(default_factory=list)
    filtered: Counter[str] = field(default_factory=Counter)


class EventDecoder(Protocol):
    """Decodes messages that one schema wrote."""

    def events(self, values: list[bytes], positions: Positions, envelope: Envelope) -> Events:
        """The events of framed messages; `positions` are theirs in the batch of records."""
        ...


def merged(parts: Iterable[Events]) -> Events:
    """The events of all parts, in the order of their messages."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    filtered: Counter[str] = Counter()
    for part in parts:
        filtered.update(part.filtered)
    verdicts = [verdict for part in parts for verdict in part.verdicts]
    return Events(_in_order([part.rows for part in parts]), verdicts, filtered)


def _in_order(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    parts = parts or [no_rows()]
    columns = [pa.concat_arrays([part.column(name) for part in parts]) for name in ROW_SCHEMA.names]
    order = np.argsort(np.asarray(columns[0]), kind="stable")
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA).take(pa.array(order))


def no_rows() -> pa.RecordBatch:
    """A batch of `ROW_SCHEMA` without rows."""
    return pa.RecordBatch.from_pylist([], ROW_SCHEMA)
