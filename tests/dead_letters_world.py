"""What the tests of `dead-letters` work with: a registry that learns, and letters of events it could not read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cdc_consumer.decoder import Decoder, Epochs
from tests.debezium_events import (
    KEY_ID,
    KEY_SCHEMA,
    PLACEHOLDER,
    VALUE_ID,
    VALUE_SCHEMA,
    Schemas,
    change,
    framed,
    records,
    sample,
)
from tests.debezium_events import key as ship_key
from tests.writer_samples import NOON_US, SHIP, STATE, Key
from tests.writer_world import WriterWorld
from widetable.hand_off import HandOff

Run = Callable[..., tuple[int, str, str]]
CELL = Key(SHIP, NOON_US, STATE)
HAND_OFF = HandOff(
    "test", 1, "system", 1, "slot", "publication", 1, 1, "topic", "topic-id", {2: 0}, PLACEHOLDER
)
FIRST_OFFSET = 40  # of `records`


@dataclass
class FakeRegistry:
    """The HTTP of a schema registry; ids that it does not know are unknown until somebody adds them."""

    schemas: dict[int, Any] = field(default_factory=lambda: {KEY_ID: KEY_SCHEMA})
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its address."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                schema = registry.schemas.get(int(self.path.rpartition("/")[2]))
                answer = {"schema": json.dumps(schema)} if schema else {"error_code": 40403}
                self.send_response(200 if schema else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def learn(self) -> None:
        """Somebody has put the connector's schema back."""
        self.schemas[VALUE_ID] = VALUE_SCHEMA


def row(value: str = "early", **columns: Any) -> dict[str, Any]:
    """A row of the narrow table, of the cell `CELL`."""
    place = {"ship_id": SHIP, "data_channel_id": STATE, "created_time": NOON_US}
    return sample(**{**place, "value_format": "String", "str_v": value, **columns})


def bury(world: WriterWorld, *events: dict[str, Any]) -> list[int]:
    """Let the consumer meet events whose schema the registry does not know; returns the letters' numbers."""
    schemas = Schemas()
    del schemas.schemas[VALUE_ID]
    batch = records([framed(event) for event in events], [ship_key(SHIP)] * len(events))
    decoded = Decoder(schemas, PLACEHOLDER, Epochs(((1, {2: 0}),))).decode(batch)
    world.apply(decoded.batch, decoded.dead)
    return numbers(world)


def numbers(world: WriterWorld) -> list[int]:
    """The letters that are there."""
    return [number for (number,) in world.conn.execute("SELECT dead_no FROM dead_cell ORDER BY dead_no")]


def inserted(lsn: int = 10, **columns: Any) -> dict[str, Any]:
    """An insert at the source."""
    return change("c", row(**columns), lsn=lsn)
