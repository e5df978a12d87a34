"""A Kafka broker: one node that is its own controller (KRaft)."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devstack.errors import DevstackError
from devstack.java_service import JavaService

SCRAM = "SCRAM-SHA-512"
CLUSTER_ID = "devstackAAAAAAAAAAAAAA"  # any 16 bytes in base64


@dataclass(frozen=True, slots=True)
class Login:
    """What a SASL_SSL listener with SCRAM asks for: a user, and files (PEM) of certificates.

    Attributes:
        keystore: the broker's private key and certificate, in one file.
        ca: the authority that signed it.
    """

    user: str
    password: str
    keystore: Path
    ca: Path

    def client(self) -> dict[str, str]:
        """Configuration of a librdkafka client that may come in."""
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": SCRAM,
            "sasl.username": self.user,
            "sasl.password": self.password,
            "ssl.ca.location": str(self.ca),
        }

    def broker(self) -> dict[str, str]:
        """The listener's lines; the broker logs in at itself, too."""
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        listener = f"listener.name.sasl_ssl.{SCRAM.lower()}"
        return {
            "sasl.enabled.mechanisms": SCRAM,
            "sasl.mechanism.inter.broker.protocol": SCRAM,
            "security.inter.broker.protocol": "SASL_SSL",
            f"{listener}.sasl.jaas.config": f'{module} required username="{self.user}" password="{self.password}";',
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca),
        }


class Kafka(JavaService):
    """One broker; topics survive stop, kill and start. With a `login` it speaks SASL_SSL only."""

    main_class = "kafka.Kafka"

    def __init__(
        self,
        folder: Path,
        port: int,
        controller_port: int,
        *,
        login: Login | None = None,
        settings: Mapping[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        super().__init__("kafka", folder, detached=detached)
        self._settings = settings or {}
        self._login = login
        self._protocol = "SASL_SSL" if login else "PLAINTEXT"
        self.bootstrap = f"127.0.0.1:{port}"
        self._controller = f"127.0.0.1:{controller_port}"
        self._data = self.folder / "data"

    def healthy(self) -> bool:
        """Whether the broker answers a metadata request."""
        # log_level 0: a refused connection is no news while we wait.
        admin = AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                **(self._login.client() if self._login else {}),
            }
        )
        try:
            return bool(admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def _prepare(self) -> None:
        super()._prepare()
        if (self._data / "meta.properties").exists():
            return
        command = self._java(
            *("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self.config_path)),
            *self._scram(),
        )
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise DevstackError(
                f"kafka can't format {self._data}: {done.stderr.strip() or done.stdout.strip()}"
            )

    def _scram(self) -> list[str]:
        if self._login is None:
            return []
        return ["--add-scram", f"{SCRAM}=[name={self._login.user},password={self._login.password}]"]

    def _properties(self) -> Mapping[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self._controller}",
            "listeners": f"{self._protocol}://{self.bootstrap},CONTROLLER://{self._controller}",
            "advertised.listeners": f"{self._protocol}://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            **(self._login.broker() if self._login else {}),
            "log.dirs": str(self._data),
            "auto.create.topics.enable": "false",  # a topic with the wrong partitions is worse than none
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "broker.session.timeout.ms": "3000",  # how long a killed broker waits for its own ghost
            "broker.heartbeat.interval.ms": "500",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # With the newer group protocol it is the broker that says when a member is taken for dead.
            "group.consumer.min.session.timeout.ms": "1000",
            "group.consumer.session.timeout.ms": "6000",
            "group.consumer.min.heartbeat.interval.ms": "500",
            "group.consumer.heartbeat.interval.ms": "1500",
            "log.retention.check.interval.ms": "5000",  # tests of passed retention need not wait 5 minutes
            **self._settings,
        }
