"""A Kafka Connect worker with the Debezium connector and the Avro converter."""

from collections.abc import Mapping
from pathlib import Path

import httpx

from devstack import jars
from devstack.java_service import JavaService, write_properties
from devstack.postgres import PASSWORD

PROVIDERS = "org.apache.kafka.common.config.provider"


class Connect(JavaService):
    """One distributed worker; connectors and their offsets live in Kafka and survive it."""

    heap = "1g"
    main_class = "org.apache.kafka.connect.cli.ConnectDistributed"

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        bootstrap: str,
        registry_url: str,
        settings: Mapping[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        super().__init__("connect", folder, detached=detached)
        self._settings = settings or {}
        self.url = f"http://127.0.0.1:{port}"
        self._bootstrap = bootstrap
        self._registry_url = registry_url
        self._secrets = self.folder / "secrets"

    @property
    def password_reference(self) -> str:
        """What stands in a connector's configuration instead of PostgreSQL's password."""
        return f"${{file:{self._secrets / 'postgres.properties'}:password}}"

    def healthy(self) -> bool:
        """Whether the worker has joined its group and answers."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    def _prepare(self) -> None:
        super()._prepare()
        self._secrets.mkdir(mode=0o700, exist_ok=True)
        write_properties(self._secrets / "postgres.properties", {"password": PASSWORD})

    def _properties(self) -> Mapping[str, str]:
        return {
            "bootstrap.servers": self._bootstrap,
            "group.id": "connect",
            "listeners": self.url,
            "rest.advertised.host.name": "127.0.0.1",
            "plugin.path": str(jars.jars() / "plugins"),
            "plugin.discovery": "service_load",
            "connector.client.config.override.policy": "All",
            "offset.flush.interval.ms": "1000",
            # A worker that was killed is back in seconds, not after the five minutes of the default.
            "session.timeout.ms": "6000",
            "heartbeat.interval.ms": "1500",
            "scheduled.rebalance.max.delay.ms": "0",
            **self._topics(),
            **self._converter("key"),
            **self._converter("value"),
            "config.providers": "file,dir",
            "config.providers.file.class": f"{PROVIDERS}.FileConfigProvider",
            "config.providers.dir.class": f"{PROVIDERS}.DirectoryConfigProvider",
            **self._settings,
        }

    def _topics(self) -> Mapping[str, str]:
        kinds = ("config", "offset", "status")
        names = {f"{kind}.storage.topic": f"connect-{kind}" for kind in kinds}
        replicas = {f"{kind}.storage.replication.factor": "1" for kind in kinds}
        return {**names, **replicas, "offset.storage.partitions": "1", "status.storage.partitions": "1"}

    def _converter(self, part: str) -> Mapping[str, str]:
        """Avro in Confluent's frame: byte 0, 4-byte content id, body."""
        prefix = f"{part}.converter"
        return {
            prefix: jars.CONVERTER,
            f"{prefix}.apicurio.registry.url": self._registry_url,
            f"{prefix}.apicurio.registry.auto-register": "true",
            f"{prefix}.apicurio.registry.as-confluent": "true",
            f"{prefix}.apicurio.registry.use-id": "contentId",
            f"{prefix}.apicurio.registry.headers.enabled": "false",
        }
