"""Changes of cells, as the tests of the writer send them: names, builders, batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import pyarrow as pa

from tests.property.model.cell import Event
from widetable.narrow import NARROW_SCHEMA, Op
from widetable.values import ColumnType

SHIP, SISTER = "IMO9000001", 'imo "b"; --%s'
LOAD, COUNT, STATE, ON, SPEED = "me/load", "me/count", "me/state", "nav/on", "nav/speed"
HOSTILE = "odd/\"quoted\"; DROP TABLE x; -- 100%s {0} 'single' \\ and more than 63 bytes"
TABLE_OF: Final = {LOAD: 1, COUNT: 1, STATE: 1, HOSTILE: 2, ON: 2, SPEED: 3}
TYPES: Final[dict[str, ColumnType]] = {
    LOAD: "float8",
    COUNT: "int8",
    STATE: "text",
    ON: "bool",
    SPEED: "float8",
}
UNLISTED = "new/channel"
NOON_US = 1_767_268_800_000_000
TICK_US = 15_000_000


class Key(NamedTuple):
    """Which cell."""

    ship: str
    moment_us: int
    channel: str


class Sample(NamedTuple):
    """A change of a cell on its way to the writer."""

    key: Key
    event: Event
    value_format: str | None = "String"


def narrow_batch(samples: Iterable[Sample]) -> pa.RecordBatch:
    """Samples as a `NarrowBatch`; every value stands in str_v."""
    rows = []
    for offset, sample in enumerate(samples):
        event = sample.event
        streamed = event.op is not Op.READ
        rows.append(
            {
                "ship_id": sample.key.ship,
                "channel_id": sample.key.channel,
                "created_time": sample.key.moment_us,
                "value_format": sample.value_format,
                "str_v": event.value,
                "op": int(event.op),
                "epoch": event.version[0],
                "lsn": event.version[1],
                "partition": 0 if streamed else -1,
                "offset": offset if streamed else -1,
            }
        )
    return pa.RecordBatch.from_pylist(rows, NARROW_SCHEMA)


def created(
    value: str | None, channel: str = STATE, *, ship: str = SHIP, moment_us: int = NOON_US, lsn: int = 1
) -> Sample:
    """An insert of the source."""
    return Sample(Key(ship, moment_us, channel), Event(Op.CREATE, (1, lsn), value))


def updated(
    value: str | None, channel: str = STATE, *, ship: str = SHIP, moment_us: int = NOON_US, lsn: int = 2
) -> Sample:
    """An update of the source."""
    return Sample(Key(ship, moment_us, channel), Event(Op.UPDATE, (1, lsn), value))


def deleted(channel: str = STATE, *, ship: str = SHIP, moment_us: int = NOON_US, lsn: int = 3) -> Sample:
    """A delete of the source."""
    return Sample(Key(ship, moment_us, channel), Event(Op.DELETE, (1, lsn)))


def copied(value: str | None, channel: str = STATE, *, ship: str = SHIP, moment_us: int = NOON_US) -> Sample:
    """A row that a slice read."""
    return Sample(Key(ship, moment_us, channel), Event(Op.READ, (0, 0), value))
