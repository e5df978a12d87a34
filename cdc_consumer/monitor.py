"""`/metrics`, `/healthz` and `/readyz`, served by the parent process from the sum of its workers' counts.

Health means that the parent's loop goes round; readiness, that every process has claimed what Kafka assigned
to it. A group member without partitions is ready.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cdc_consumer.exposition import SnapshotCollector
from cdc_consumer.metrics import Snapshot
from cdc_consumer.target_facts import Gauges
from widetable.errors import ConfigurationError

STALLED_S: Final = 60.0
"""A loop that has not gone round for so long is not healthy."""
PLAIN: Final = {"Content-Type": "text/plain"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent for a path."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: PLAIN)


@dataclass(frozen=True, slots=True)
class Probe:
    """What the server asks the program; `page` answers paths that are not the server's own, given the Host."""

    snapshot: Callable[[], Snapshot]
    alive_s: Callable[[], float]
    ready: Callable[[], bool]
    watched: Callable[[], Gauges] = dict
    page: Callable[[str, str], Answer | None] = lambda _path, _host: None


def serve(host: str, port: int, probe: Probe) -> ThreadingHTTPServer:
    """Serve in a thread of its own; `shutdown()` the returned server to end it.

    Raises:
        ConfigurationError: the address can't be had.
    """
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(probe.snapshot, probe.ready, probe.watched))

    class Handler(BaseHTTPRequestHandler):
        """Answers GET."""

        def do_GET(self) -> None:
            """One of the pages."""
            answer = _answer(self.path.partition("?")[0], self.headers.get("Host", ""), probe, registry)
            self.send_response(answer.status)
            for name, text in answer.headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def version_string(self) -> str:
            """Nobody needs to know which Python answers."""
            return "cdc-consumer"

        def log_message(self, *_: object) -> None:
            """Health checks are not worth a line each."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigurationError(
            f"Can't listen on {host}:{port} ({error.strerror}):"
            " set CDC_CONSUMER__HTTP_PORT to a free port, or to 0 for none."
        ) from error
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


def _answer(path: str, host: str, probe: Probe, registry: CollectorRegistry) -> Answer:
    match path:
        case "/metrics":
            return Answer(200, generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST})
        case "/healthz":
            alive = probe.alive_s() < STALLED_S
            return Answer(200 if alive else 503, b"ok\n" if alive else b"the loop stands still\n")
        case "/readyz":
            ready = probe.ready()
            return Answer(200 if ready else 503, b"ready\n" if ready else b"not ready yet\n")
    return probe.page(path, host) or Answer(404, b"try /metrics, /healthz or /readyz\n")
