"""Apicurio Registry: where the Avro schemas live, asked through its Confluent-compatible API."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from devstack import jars
from devstack.service import Service


class Registry(Service):
    """One registry; schemas and their ids survive stop, kill and start."""

    start_timeout_s = 120.0

    def __init__(self, folder: Path, port: int, *, detached: bool = False) -> None:
        super().__init__("registry", folder, detached=detached)
        self._port = port
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        self.native_url = f"http://127.0.0.1:{port}/apis/registry/v2"

    def healthy(self) -> bool:
        """Whether the registry answers."""
        try:
            return httpx.get(f"{self.url}/subjects", timeout=2).is_success
        except httpx.TransportError:
            return False

    def _prepare(self) -> None:
        """Nothing to write: everything travels in the environment."""

    def _environment(self) -> Mapping[str, str]:
        # By default schemas live in memory: after a restart the same id would name another schema.
        database = f"jdbc:h2:file:{self.folder / 'schemas'};WRITE_DELAY=0"
        return {
            **os.environ,
            "HTTP_PORT": str(self._port),
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_LOG_CONSOLE_COLOR": "false",
            "REGISTRY_DATASOURCE_URL": database,
        }

    def _command(self) -> Sequence[str]:
        (runner,) = (jars.jars() / "registry").glob("*-runner.jar")
        return [jars.java(), "-Xmx256m", "-XX:+UseSerialGC", "-jar", str(runner)]
