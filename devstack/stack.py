"""The whole chain in one folder: PostgreSQL, Kafka, registry, Connect.

In: a folder. Out: four servers on ports that are chosen once and kept in `devstack.json`, so that clients
find a server again after it was stopped or killed. `up` leaves no half chain: on failure it stops its own.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from devstack import jars
from devstack.connect import Connect
from devstack.kafka import Kafka
from devstack.postgres import Postgres
from devstack.registry import Registry
from devstack.service import Service, free_ports

PORTS_FILE = "devstack.json"
PORT_NAMES = ("postgres", "kafka", "kafka_controller", "registry", "connect")
DATABASES = {"source": True, "target": False}
"""The developer's databases, and whether they hold the narrow table."""


class Stack:
    """The chain of one folder; constructing it starts nothing.

    Args:
        folder: where data, logs, pids and ports live.
        detached: the servers outlive this process (`devstack up`) instead of ending with it (tests).
        settings: by the name of a server, lines of its configuration that win over ours.
    """

    def __init__(
        self, folder: Path, *, detached: bool = False, settings: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        more = settings or {}
        self.folder = folder.absolute()
        self._ports_path = self.folder / PORTS_FILE
        self._port = port = self._ports()
        self.postgres = Postgres(
            self.folder / "postgres", port["postgres"], more.get("postgres"), detached=detached
        )
        self.kafka = Kafka(
            self.folder / "kafka",
            port["kafka"],
            port["kafka_controller"],
            settings=more.get("kafka"),
            detached=detached,
        )
        self.registry = Registry(self.folder / "registry", port["registry"], detached=detached)
        self.connect = Connect(
            self.folder / "connect",
            port["connect"],
            bootstrap=self.kafka.bootstrap,
            registry_url=self.registry.native_url,
            settings=more.get("connect"),
            detached=detached,
        )

    @property
    def services(self) -> tuple[Service, ...]:
        """The servers in the order of their start."""
        return (self.postgres, self.kafka, self.registry, self.connect)

    @property
    def running(self) -> bool:
        """Whether every server runs."""
        return all(service.pid for service in self.services)

    def up(self, report: Callable[[str], None] = lambda _: None) -> None:
        """Start what does not run yet and wait until all of it answers; `report` gets a line per server.

        Raises:
            DevstackError: Java is missing, or a server did not start; those started here are stopped again.
        """
        jars.java()
        jars.jars()
        self.keep_ports()
        idle = [service for service in self.services if service.pid is None]
        began = time.monotonic()
        try:
            for service in idle:
                service.launch()
            for service in self.services:
                service.wait_healthy()
                report(f"{service.name} answers after {time.monotonic() - began:.0f} s")
        except BaseException:
            for service in reversed(idle):
                service.kill()
            raise
        for name, narrow in DATABASES.items():
            if not self.postgres.server.has_database(name):
                self.postgres.create_database(name, narrow=narrow)

    def stop(self) -> None:
        """Stop every server, readers before what they read; data and ports stay."""
        for service in reversed(self.services):
            service.stop()

    def wipe(self) -> None:
        """Stop every server and remove data, logs and ports."""
        for service in reversed(self.services):
            service.wipe()
        self._ports_path.unlink(missing_ok=True)
        # Only what is ours: the folder may have been given by hand and hold other things.
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def environment(self) -> dict[str, str]:
        """The product's settings for this chain, as environment variables."""
        return {
            "CDC_SOURCE__DSN": self.postgres.dsn("source"),
            "CDC_TARGET__DSN": self.postgres.dsn("target"),
            "CDC_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "CDC_REGISTRY__URL": self.registry.url,
            "CDC_CONNECT__URL": self.connect.url,
            "CDC_CONNECT__PASSWORD_REFERENCE": self.connect.password_reference,
        }

    def _ports(self) -> dict[str, int]:
        if self._ports_path.exists():
            ports: dict[str, int] = json.loads(self._ports_path.read_text())
            return ports
        return dict(zip(PORT_NAMES, free_ports(len(PORT_NAMES)), strict=True))

    def keep_ports(self) -> None:
        """Write the ports down, so that other processes find this chain."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ports_path.write_text(json.dumps(self._port, indent=2) + "\n")
