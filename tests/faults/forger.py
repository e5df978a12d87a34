"""Messages that no connector of ours would send, put straight into the topic.

In: a topic with at least one insert in it. Out: records in the partition of that insert's ship, made from it.
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any, Final

import fastavro
import httpx
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.faults.world import World

FRAME_BYTES: Final = 5
READ_S: Final = 20.0


class Forger:
    """Knows the real schema, one real insert, and its key.

    Attributes:
        ship: whose partition everything goes to.
    """

    def __init__(self, world: World) -> None:
        self._topic = world.topic
        self._bootstrap = world.stack.kafka.bootstrap
        message = self._newest_insert(world)
        value, self._key, partition = message.value(), message.key(), message.partition()
        assert value is not None
        assert partition is not None
        self._partition = partition
        self._frame = value[:FRAME_BYTES]
        (schema_id,) = struct.unpack(">I", self._frame[1:])
        answer = httpx.get(f"{world.stack.registry.url}/schemas/ids/{schema_id}", timeout=10)
        self._schema = fastavro.parse_schema(json.loads(answer.json()["schema"]))
        content: Any = fastavro.schemaless_reader(io.BytesIO(value[FRAME_BYTES:]), self._schema, None)
        self._content: dict[str, Any] = content
        self.ship = str(content["after"]["ship_id"])

    def _newest_insert(self, world: World) -> Message:
        """The last record of the fullest partition."""
        ends = world.end_offsets()
        partition = max(ends, key=lambda number: ends[number])
        client = Consumer({"bootstrap.servers": self._bootstrap, "group.id": "forger"})
        try:
            client.assign([TopicPartition(self._topic, partition, ends[partition] - 1)])
            message = client.poll(READ_S)
        finally:
            client.close()
        assert message is not None
        assert message.error() is None, message.error()
        return message

    def insert(self, **columns: Any) -> bytes:
        """The insert with other columns."""
        body = io.BytesIO()
        content = {**self._content, "op": "c", "before": None}
        content["after"] = {**self._content["after"], **columns}
        fastavro.schemaless_writer(body, self._schema, content)
        return self._frame + body.getvalue()

    def garbage(self, number: int = 0) -> bytes:
        """Our schema's frame, and behind it nothing that it could have written."""
        return self._frame + b"\xff" * 12 + bytes([number % 256])

    def unknown_schema(self) -> bytes:
        """A schema id that the registry never gave out."""
        return struct.pack(">bI", 0, 2_000_000_000) + self.insert()[FRAME_BYTES:]

    def send(self, *values: bytes, keyed: bool = True) -> None:
        """Put records into the ship's partition, in this order, and wait until the broker has them."""
        producer = Producer({"bootstrap.servers": self._bootstrap, "enable.idempotence": True})
        for value in values:
            key = self._key if keyed else None
            producer.produce(self._topic, value=value, key=key, partition=self._partition)
        assert producer.flush(READ_S) == 0
