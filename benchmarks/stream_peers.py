"""Another way out of Kafka, plain Python as one would write it well, and the limit: `consume()` alone."""

from __future__ import annotations

import gc
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import confluent_kafka as ck
import fastavro
import psycopg
from psycopg import sql

from benchmarks.content import WideTable
from benchmarks.history_peers import upsert
from benchmarks.topic import read_event

BEST: Final = {
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 131_072,
    "fetch.message.max.bytes": 8_000_000,
    "fetch.max.bytes": 50_000_000,
    "fetch.queue.backoff.ms": 10,
}
CALL: Final = 10_000
BATCH: Final = 20_000
EPOCH: Final = datetime(1970, 1, 1)

Ends = Mapping[int, int]
"""Per partition the offset to stop before."""


def _consumer(bootstrap: str, topic: str, ends: Ends) -> ck.Consumer:
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": f"peer-{time.time_ns()}", **BEST})
    consumer.list_topics(topic)
    consumer.assign([ck.TopicPartition(topic, partition, 0) for partition in ends])
    consumer.pause([ck.TopicPartition(topic, partition) for partition in ends])
    return consumer


def consume_only(ready: Callable[[], None], bootstrap: str, topic: str, ends: Ends) -> int:
    """Read the topic and throw it away: calls never ask for more than is left, so that none waits for it."""
    consumer = _consumer(bootstrap, topic, ends)
    total, count = sum(ends.values()), 0
    gc.disable()
    ready()
    consumer.resume([ck.TopicPartition(topic, partition) for partition in ends])
    while count < total:
        count += len(consumer.consume(min(CALL, total - count), 0.1))
    consumer.close()
    return count


def plain_fastavro(
    ready: Callable[[], None],
    bootstrap: str,
    topic: str,
    ends: Ends,
    schema: Mapping[str, Any],
    dsn: str,
    tables: Sequence[WideTable],
) -> int:
    """Decode each message with fastavro, group cells to rows, upsert the rows by executemany, commit."""
    parsed = fastavro.parse_schema(json.loads(json.dumps(schema)))
    table_of = {(table.ship, channel): table for table in tables for channel in table.channels}
    upserts = {table: upsert(table) for table in tables}
    consumer = _consumer(bootstrap, topic, ends)
    left, count = dict(ends), 0
    gc.disable()
    with psycopg.connect(dsn) as conn:
        conn.execute("SET jit = off")
        conn.commit()
        ready()
        consumer.resume([ck.TopicPartition(topic, partition) for partition in ends])
        while left:
            batch = consumer.consume(BATCH, 0.5)
            rows: dict[WideTable, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
            for message in batch:
                partition, offset, value = message.partition(), message.offset(), message.value()
                if partition is None or offset is None or value is None or offset >= ends[partition]:
                    continue
                if offset == ends[partition] - 1:
                    del left[partition]
                after = read_event(value, parsed)["after"]
                channel = after["data_channel_id"]
                rows[table_of[after["ship_id"], channel]][after["created_time"]][channel] = _text(after)
                count += 1
            _write(conn, upserts, rows)
    consumer.close()
    return count


def _text(after: Mapping[str, Any]) -> str | None:
    """The value as PostgreSQL prints it."""
    if after["double_v"] is not None:
        return _float_text(after["double_v"])
    if after["bool_v"] is not None:
        return "true" if after["bool_v"] else "false"
    value = after["str_v"] if after["long_v"] is None else after["long_v"]
    return None if value is None else str(value)


def _float_text(number: float) -> str:
    """Python's text, where PostgreSQL's differs made to be like it; good for the fleet's values."""
    if number != number:  # noqa: PLR0124 - only NaN differs from itself
        return "NaN"
    if abs(number) == float("inf"):
        return "Infinity" if number > 0 else "-Infinity"
    if 1e15 <= abs(number) < 1e16:
        digits = str(int(abs(number))).rstrip("0")
        point = "." if len(digits) > 1 else ""
        return f"{'-' if number < 0 else ''}{digits[0]}{point}{digits[1:]}e+15"
    return repr(number).removesuffix(".0")


def _write(
    conn: psycopg.Connection[Any],
    upserts: Mapping[WideTable, sql.Composed],
    rows: Mapping[WideTable, Mapping[int, Mapping[str, Any]]],
) -> None:
    cursor = conn.cursor()
    for table, moments in rows.items():
        lines = [
            [EPOCH + timedelta(microseconds=moment), *map(cells.get, table.channels)]
            for moment, cells in moments.items()
        ]
        cursor.executemany(upserts[table], lines)
    conn.commit()
