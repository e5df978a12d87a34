"""A broker that speaks SASL_SSL with SCRAM only: the product's own clients come in, others are told why not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import confluent_kafka as ck
import pytest

from cdc_consumer.settings import KafkaSettings, TopicSettings
from cdc_consumer.source import Source
from cdc_consumer.topic import Topics
from devstack.kafka import Kafka, Login
from devstack.service import free_ports
from tests.certificates import Certificates, make_certificates
from widetable.errors import ConfigurationError

pytestmark = pytest.mark.stack
PASSWORD = "kafka-hunter2-secret"
GROUP = {"group.id": "g", "partition.assignment.strategy": "cooperative-sticky"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once for the module."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def broker(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One broker, and nothing else of the chain."""
    login = Login("pipeline", PASSWORD, certificates.server, certificates.ca)
    kafka = Kafka(tmp_path_factory.mktemp("kafka"), *free_ports(2), login=login)
    kafka.start()
    yield kafka
    kafka.wipe()


def settings(broker: Kafka, certificates: Certificates, **more: object) -> KafkaSettings:
    """As an operator sets it."""
    given: dict[str, object] = {
        "bootstrap_servers": broker.bootstrap,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "pipeline",
        "sasl_password": PASSWORD,
        "ssl_ca_location": str(certificates.ca),
        "request_timeout_s": 5,
    }
    return KafkaSettings.model_validate({**given, **more})


def test_topics_and_the_consumer_log_in(broker: Kafka, certificates: Certificates) -> None:
    """The admin client creates a topic, the group member reads what stands in it."""
    given = settings(broker, certificates)
    topics = Topics(given)
    topics.create("secured", TopicSettings(partitions=1))
    producer = ck.Producer(given.client())
    producer.produce("secured", b"sample")
    assert producer.flush(30) == 0
    assigned: list[int] = []
    source = Source(given.client(**GROUP), "secured", assigned.extend, lambda _: None)
    deadline = time.monotonic() + 30
    values: list[bytes | None] = []
    while not values:
        assert time.monotonic() < deadline
        polled = source.read(10, 10, 0.2)
        if assigned:
            source.start(assigned.pop(), 0)
        values = list(polled.records.values) if polled else []
    source.close()
    assert values == [b"sample"]


@pytest.mark.parametrize("wrong", ["password", "authority"])
def test_a_wrong_login_is_a_configuration_error(
    broker: Kafka, certificates: Certificates, wrong: str
) -> None:
    """Waiting does not help, so it is not called unreachable; the password is not in the message."""
    more = {
        "password": {"sasl_password": "wrong-hunter3-secret"},
        "authority": {"ssl_ca_location": str(certificates.stranger)},
    }[wrong]
    with pytest.raises(ConfigurationError, match="Kafka refuses") as refused:
        Topics(settings(broker, certificates, **more)).broker_count()
    assert "CDC_KAFKA__SASL_" in str(refused.value)
    assert "hunter" not in str(refused.value)
