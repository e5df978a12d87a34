"""`/metrics`, `/healthz` and `/readyz`, served by the parent process from the sum of its workers' counts.

Health means that the parent's loop goes round; readiness, that every process reports, and has claimed what Kafka
assigned to it. A group member without partitions is ready. What is sent in pieces never looks whole where it
broke off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cdc_consumer.exposition import SnapshotCollector
from cdc_consumer.metrics import Snapshot
from cdc_consumer.target_facts import Gauges
from widetable.command_line import named
from widetable.errors import ConfigurationError

log = structlog.get_logger(__name__)

STALLED_S: Final = 60.0
"""A loop that has not gone round for so long is not healthy."""
READER_STALLED_S: Final = 60.0
"""A client that takes no piece of a stream for so long is given up."""
PLAIN: Final = {"Content-Type": "text/plain"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a page may know of a request: `site` is the browser's Sec-Fetch-Site, empty from anything else."""

    path: str
    host: str = ""
    query: str = ""
    site: str = ""
    version: str = "HTTP/1.1"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent for a path."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: PLAIN)


@dataclass(frozen=True, slots=True)
class Stream:
    """What is sent in pieces, none of them empty; `close` is told at its end whether all of it was sent."""

    pieces: Iterator[bytes]
    headers: Mapping[str, str]
    close: Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Probe:
    """What the server asks the program; `page` answers paths that are not the server's own."""

    snapshot: Callable[[], Snapshot]
    alive_s: Callable[[], float]
    ready: Callable[[], bool]
    watched: Callable[[], Gauges] = dict
    page: Callable[[Request], Answer | Stream | None] = lambda _request: None


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
            answer = _answer(_request(self), probe, registry)
            if isinstance(answer, Stream):
                _send_stream(self, answer)
            else:
                _send_head(self, answer.status, {**answer.headers, "Content-Length": str(len(answer.body))})
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


def _answer(request: Request, probe: Probe, registry: CollectorRegistry) -> Answer | Stream:
    match request.path:
        case "/metrics":
            return Answer(200, generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST})
        case "/healthz":
            alive = probe.alive_s() < STALLED_S
            return Answer(200 if alive else 503, b"ok\n" if alive else b"the loop stands still\n")
        case "/readyz":
            ready = probe.ready()
            return Answer(200 if ready else 503, b"ready\n" if ready else b"not ready yet\n")
    return probe.page(request) or Answer(404, b"try /metrics, /healthz or /readyz\n")


def _request(handler: BaseHTTPRequestHandler) -> Request:
    path, _, query = handler.path.partition("?")
    headers = handler.headers
    host, site = headers.get("Host", ""), headers.get("Sec-Fetch-Site", "")
    return Request(path, host, query, site, handler.request_version)


def _send_head(handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str]) -> None:
    handler.send_response(status)
    for name, text in headers.items():
        handler.send_header(name, text)
    handler.end_headers()


def _send_stream(handler: BaseHTTPRequestHandler, stream: Stream) -> None:
    """Send it in chunks; the one that says "this was all" comes only if it was."""
    handler.protocol_version = "HTTP/1.1"  # the first that has chunks
    handler.connection.settimeout(READER_STALLED_S)
    whole = False
    try:
        _send_head(handler, 200, {**stream.headers, "Transfer-Encoding": "chunked", "Connection": "close"})
        for piece in stream.pieces:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")
        whole = True
    except OSError as error:
        log.info("client_left", path=handler.path.partition("?")[0], error=str(error))
    except Exception as error:
        if (known := named(error)) is None:
            raise
        log.warning("stream_broken", path=handler.path.partition("?")[0], error=str(known))
        with suppress(OSError):
            handler.wfile.write(b"1\r\n")  # a byte that never comes: lenient clients see that, too
    finally:
        stream.close(whole)
