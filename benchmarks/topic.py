"""A topic full of Debezium's events, made faster than Debezium makes them.

In: a pipeline with a hand-off, and samples. Out: events in its topic that are Debezium's to the byte. One
genuine event is captured: a row is inserted at the source, and Debezium's message of it read back. All others
are that event with another `after` and LSN, written with the schemas that Debezium's converter registered; it
is asserted that the genuine event, decoded and written again, gives its very bytes.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final

import confluent_kafka as ck
import fastavro
import httpx
import pyarrow as pa

from devstack.errors import DevstackError

FRAME_BYTES: Final = 5
WAIT_S: Final = 60.0
AHEAD: Final = 6
PRODUCER: Final = {
    # As Debezium's producer is configured (connectors/debezium.json), and Kafka's Java client by default.
    "compression.type": "lz4",
    "linger.ms": 20,
    "batch.size": 16_384,
    "acks": "all",
    "queue.buffering.max.messages": 1_000_000,
}


Place = Callable[[int, int], int]
"""The partition of (a ship's index, a moment in microseconds)."""


@dataclass(frozen=True, slots=True)
class Template:
    """A genuine event, and what it was written with.

    Attributes:
        frame: of values, 5 bytes.
        key: the genuine key; `ship` is whose.
        event: the decoded envelope.
        partition: where Debezium put it.
    """

    frame: bytes
    schema: dict[str, Any]
    event: dict[str, Any]
    key: bytes
    key_schema: dict[str, Any]
    ship: str
    partition: int

    def key_of(self, ship: str) -> bytes:
        """The key of another ship's events."""
        return self.key[:FRAME_BYTES] + _body(
            {"ship_id": ship}, fastavro.parse_schema(deepcopy(self.key_schema))
        )


def capture(bootstrap: str, registry_url: str, topic: str) -> Template:
    """Read the first record of a topic, which Debezium has written or is about to write."""
    message = first_record(bootstrap, topic)
    value, key = message.value(), message.key()
    if value is None or key is None:
        raise DevstackError("Debezium's event has no value or no key")
    schema, key_schema = (_schema(registry_url, part) for part in (value, key))
    event = read_event(value, fastavro.parse_schema(deepcopy(schema)))
    ship = str(event["after"]["ship_id"])
    template = Template(value[:FRAME_BYTES], schema, event, key, key_schema, ship, message.partition() or 0)
    again = value[:FRAME_BYTES] + _body(event, fastavro.parse_schema(deepcopy(schema)))
    if again != value or template.key_of(ship) != key:
        raise DevstackError("an event written again is not Debezium's to the byte")
    return template


def first_record(bootstrap: str, topic: str) -> ck.Message:
    """The first record of a topic, waited for."""
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": f"capture-{time.time_ns()}"})
    try:
        deadline = time.monotonic() + WAIT_S
        while (found := consumer.list_topics(topic).topics[topic]).error is not None:
            time.sleep(0.1)
        consumer.assign([ck.TopicPartition(topic, p, ck.OFFSET_BEGINNING) for p in found.partitions])
        while (message := consumer.poll(0.2)) is None or message.error():
            if time.monotonic() > deadline:
                raise DevstackError(f"no event arrived in {topic}: see the log of Kafka Connect")
        return message
    finally:
        consumer.close()


def _schema(registry_url: str, message: bytes) -> dict[str, Any]:
    number = int.from_bytes(message[1:FRAME_BYTES], "big")
    answer = httpx.get(f"{registry_url}/schemas/ids/{number}").json()
    schema: dict[str, Any] = json.loads(answer["schema"])
    return schema


def read_event(message: bytes, parsed: Any) -> dict[str, Any]:
    """A framed message's content, by fastavro."""
    content: Any = fastavro.schemaless_reader(io.BytesIO(message[FRAME_BYTES:]), parsed, None)
    event: dict[str, Any] = content
    return event


def _body(content: dict[str, Any], parsed: Any) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, parsed, content)
    return body.getvalue()


# -- filling ------------------------------------------------------------------------------------------------


def placement(template: Template, ships: Sequence[str], partitions: int) -> dict[str, int]:
    """Ships dealt out evenly, the genuine event's ship where Debezium put it: a hash of 8 keys is a lottery."""
    others = [ship for ship in ships if ship != template.ship]
    order = [template.ship, *others]
    return {ship: (template.partition + i) % partitions for i, ship in enumerate(order)}


def fill(
    bootstrap: str,
    topic: str,
    template: Template,
    samples: Iterable[pa.RecordBatch],
    ships: Sequence[str],
    place: Place,
) -> int:
    """Write an event for each sample; returns how many. Events are encoded in two processes."""
    producer = ck.Producer({"bootstrap.servers": bootstrap, **PRODUCER})
    keys = [template.key_of(ship) for ship in ships]
    number = {ship: i for i, ship in enumerate(ships)}
    count = 0
    with ProcessPoolExecutor(2, get_context("spawn"), _prepare, (template,)) as pool:
        for coordinates, values in _encoded(pool, samples):
            count += len(values)
            for (ship, moment), value in zip(coordinates, values, strict=True):
                produce(producer, topic, value, keys[number[ship]], place(number[ship], moment))
            producer.poll(0)
    if producer.flush(WAIT_S):
        raise DevstackError("the topic could not be filled")
    return count


def produce(producer: ck.Producer, topic: str, value: bytes, key: bytes, partition: int) -> None:
    """Send one record, waiting while the queue is full."""
    while True:
        try:
            producer.produce(topic, value, key, partition)
        except BufferError:
            producer.poll(0.05)
        else:
            return


def _encoded(
    pool: ProcessPoolExecutor, samples: Iterable[pa.RecordBatch]
) -> Iterator[tuple[list[tuple[str, int]], list[bytes]]]:
    """((ship, moment), value) of each event, batch by batch, in order; encoded a few batches ahead."""
    waiting, lsn = [], 0
    for batch in samples:
        lsn += batch.num_rows
        moments = batch.column("created_time").cast(pa.int64()).to_pylist()
        coordinates = list(zip(batch.column("ship_id").to_pylist(), moments, strict=True))
        waiting.append((coordinates, pool.submit(encode, batch, lsn)))
        if len(waiting) >= AHEAD:
            first, future = waiting.pop(0)
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


_TEMPLATE: list[Template] = []
"""Of this process of the pool."""


def _prepare(template: Template) -> None:
    _TEMPLATE[:] = [template]


def encode(batch: pa.RecordBatch, lsn: int) -> list[bytes]:
    """The events of a batch of the fleet's samples, in a process that was prepared."""
    return events(_TEMPLATE[0], batch, lsn)


def events(template: Template, batch: pa.RecordBatch, lsn: int) -> list[bytes]:
    """Framed events of a batch of samples, which all committed at `lsn` past the genuine one."""
    parsed = fastavro.parse_schema(deepcopy(template.schema))
    event = deepcopy(template.event)
    after = event["after"]
    event["source"]["lsn"] += lsn
    moments = batch.column("created_time").cast(pa.int64()).to_pylist()
    rows = batch.drop_columns(["created_time"]).to_pylist()
    found = []
    for number, (row, moment) in enumerate(zip(rows, moments, strict=True)):
        after.update(row, id=lsn + number, created_time=moment)
        found.append(template.frame + _body(event, parsed))
    return found
