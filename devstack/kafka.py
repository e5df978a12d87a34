"""A Kafka broker: one node that is its own controller (KRaft)."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devstack.errors import DevstackError
from devstack.java_service import JavaService

CLUSTER_ID = "devstackAAAAAAAAAAAAAA"  # any 16 bytes in base64


class Kafka(JavaService):
    """One broker; topics survive stop, kill and start."""

    main_class = "kafka.Kafka"

    def __init__(self, folder: Path, port: int, controller_port: int, *, detached: bool = False) -> None:
        super().__init__("kafka", folder, detached=detached)
        self.bootstrap = f"127.0.0.1:{port}"
        self._controller = f"127.0.0.1:{controller_port}"
        self._data = self.folder / "data"

    def healthy(self) -> bool:
        """Whether the broker answers a metadata request."""
        # log_level 0: a refused connection is no news while we wait.
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            return bool(admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def _prepare(self) -> None:
        super()._prepare()
        if (self._data / "meta.properties").exists():
            return
        command = self._java(
            "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self.config_path)
        )
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise DevstackError(
                f"kafka can't format {self._data}: {done.stderr.strip() or done.stdout.strip()}"
            )

    def _properties(self) -> Mapping[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self._controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{self._controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
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
        }
