"""`NarrowBatch`es for tests that care about some of its fields only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from widetable.narrow import NARROW_SCHEMA, Op

NAMED = {"ship_id": "SHIP1", "channel_id": "engine/speed", "value_format": "Decimal", "op": int(Op.CREATE)}


def narrow_batch(samples: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    """A batch of `NARROW_SCHEMA`; a field that a sample doesn't name gets a plain value: NULL or 0."""
    return pa.RecordBatch.from_arrays(
        [pa.array([_value(sample, field) for sample in samples], field.type) for field in NARROW_SCHEMA],
        schema=NARROW_SCHEMA,
    )


def _value(sample: dict[str, Any], field: pa.Field) -> Any:
    if field.name in sample:
        return sample[field.name]
    return NAMED.get(field.name, None if field.nullable else 0)
