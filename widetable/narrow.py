"""`NarrowBatch`: samples of the narrow table on their way to wide rows, as one Arrow record batch.

Both springs of the river end here. The history side fills the text columns with PostgreSQL's own
``::text``; the stream side makes the same text from the decoded values. From here on, live and history
run the same code, which is why they can't disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
import pyarrow as pa


class Op(IntEnum):
    """How a sample came about. From `UPDATE` on, an op carries a version that is recorded in the row."""

    READ = 0  # history: backfill, or a snapshot read ("r") in the topic
    CREATE = 1  # "c"
    UPDATE = 2  # "u"
    DELETE = 3  # "d"
    RESYNC = 4  # "s": the source's state, re-read under the ledger lock
    CORRECTION = 5  # "k": a value imported by a person


KIND: Final = {Op.UPDATE: "u", Op.DELETE: "d", Op.RESYNC: "s", Op.CORRECTION: "k"}
"""The letter that a versioned op leaves in `_x`; "o" is added by the rule for a value that doesn't fit."""

VALUE_COLUMNS: Final = ("double_v", "long_v", "str_v", "bool_v")
FORMATS: Final = ("Decimal", "Integer", "String", "Boolean")
"""`FORMATS[i]` names the format whose value stands in `VALUE_COLUMNS[i]`."""

NARROW_SCHEMA: Final = pa.schema(
    [
        pa.field("ship_id", pa.string(), nullable=False),
        pa.field("channel_id", pa.string(), nullable=False),
        pa.field("created_time", pa.int64(), nullable=False),  # microseconds since 1970, no time zone
        pa.field("value_format", pa.string()),
        # The value columns as PostgreSQL text under extra_float_digits=1.
        pa.field("double_v", pa.string()),
        pa.field("long_v", pa.string()),
        pa.field("str_v", pa.string()),
        pa.field("bool_v", pa.string()),
        pa.field("op", pa.int8(), nullable=False),
        # The version (epoch, lsn) of the change; 0, 0 on the history side.
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("lsn", pa.int64(), nullable=False),
        # When the source committed the change, milliseconds since 1970; -1 on the history side.
        pa.field("source_ms", pa.int64(), nullable=False),
        # Kafka coordinates, and when Kafka got the record; -1 on the history side.
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("record_ms", pa.int64(), nullable=False),
    ]
)

FIRST_MOMENT_US: Final = -210_866_803_200_000_000  # PostgreSQL's first timestamp, 4713 BC
LAST_MOMENT_US: Final = 9_223_372_036_825_200_000 - 1
"""Past these bounds lies infinity: Debezium sends it as 9223372036825200000 and -9223372036832400000."""


@dataclass(frozen=True, slots=True)
class DeadCell:
    """A cell, or a whole message, that can't be stored; its coordinates allow a replay by hand.

    `partition` and `offset` are -1 for a cell of the history side, where ship, moment and channel name it.
    """

    reason: str
    detail: str
    partition: int = -1
    offset: int = -1
    ship_id: str | None = None
    channel_id: str | None = None
    created_time: int | None = None
    raw_key: bytes | None = None
    raw_value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder or reader made of its input: rows for the pipeline, and what never gets there.

    Attributes:
        batch: rows of `NARROW_SCHEMA`, in partition order.
        dead: one entry per undecodable message or cell.
        filtered: events that end here on purpose, counted by reason (`placeholder`, ...).
    """

    batch: pa.RecordBatch
    dead: list[DeadCell] = field(default_factory=list)
    filtered: dict[str, int] = field(default_factory=dict)


def history_columns(rows: int) -> dict[str, pa.Array]:
    """The change columns of `rows` samples read from the source table rather than from the stream."""
    return {
        "op": pa.array(np.full(rows, Op.READ, np.int8)),
        "epoch": pa.array(np.zeros(rows, np.int32)),
        "lsn": pa.array(np.zeros(rows, np.int64)),
        "source_ms": pa.array(np.full(rows, -1, np.int64)),
        "partition": pa.array(np.full(rows, -1, np.int32)),
        "offset": pa.array(np.full(rows, -1, np.int64)),
        "record_ms": pa.array(np.full(rows, -1, np.int64)),
    }


def empty_batch() -> pa.RecordBatch:
    """A `NarrowBatch` of no rows."""
    return pa.RecordBatch.from_pylist([], NARROW_SCHEMA)
