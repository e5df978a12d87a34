"""A real Prometheus for tests: the project's own configuration, scraping every second."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx

from devstack.service import free_port
from tests.debian import require
from tests.doc_pages import ROOT
from tests.waiting import wait_until

DEPLOYED = ROOT / "deploy" / "prometheus"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Asks a server that runs."""

    client: httpx.Client

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now; fails where it can't be evaluated."""
        answer = self.client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def has_data(self, expression: str) -> bool:
        """Whether it gives a number that is one."""
        return any(series["value"][1] != "NaN" for series in self.query(expression))

    def rules(self) -> list[dict[str, Any]]:
        """All rules as the server holds them."""
        groups = self.client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def label_values(self, label: str) -> list[str]:
        """Values of a label."""
        values: list[str] = self.client.get(f"/api/v1/label/{label}/values").json()["data"]
        return values


def configured(folder: Path, consumer: str, exporter: str) -> Path:
    """A copy of the deployed configuration for these two targets, every second instead of every 15."""
    text = (DEPLOYED / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("cdc-consumer:9180", consumer).replace("targets: []", f"targets: [{exporter}]")
    text = re.sub(r"_interval: 15s", "_interval: 1s", text)
    (folder / "rules").symlink_to(DEPLOYED / "rules")
    path = folder / "prometheus.yml"
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def prometheus(folder: Path, consumer: str, exporter: str) -> Iterator[Prometheus]:
    """A server that scrapes these; it is gone afterwards."""
    port = free_port()
    command = [
        require("prometheus", "prometheus"),
        f"--config.file={configured(folder, consumer, exporter)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    log = folder / "prometheus.log"
    with (
        log.open("wb") as file,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
    ):
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603 - our own
        try:
            wait_until(lambda: _ready(client), f"Prometheus is ready: {log.read_text()}")
            yield Prometheus(client)
        finally:
            child.kill()
            child.wait()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def page_of_metrics(text: str) -> Iterator[str]:
    """An exporter that always says the same; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """A scraper that is killed hangs up in the middle."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
