"""The whole chain with every session at Kafka and PostgreSQL encrypted and logged in, as docs/security.md says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from devstack.connect import Connect
from devstack.java_service import write_properties
from devstack.kafka import SCRAM, Kafka, Login
from devstack.service import free_ports
from devstack.stack import Stack
from tests.certificates import Certificates, make_certificates
from tests.chain_pipeline import Pipeline, fresh_pipeline
from tests.doc_pages import PAGE_OF
from tests.secure_postgres import SecurePostgres, debian_programs
from tests.waiting import wait_until
from widetable.errors import ExitCode

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

(WORKER_RECIPE,) = PAGE_OF["docs/security.md"].blocks("properties")
PASSWORD = "kafka-hunter4-secret"
USER = "narrow"
SAMPLE = """INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, double_v, value_format)
            VALUES ('SHIP', 'a/b', timestamp '2026-01-01' + interval '15 s' * %s, 1, 'Decimal')"""
SESSIONS = """
SELECT a.application_name, a.backend_type, coalesce(s.ssl, false)
FROM pg_stat_activity a LEFT JOIN pg_stat_ssl s USING (pid)
WHERE a.backend_type IN ('client backend', 'walsender')
"""


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """One authority, and one certificate for both servers."""
    (folder := tmp_path / "certificates").mkdir()
    return make_certificates(folder)


@pytest.fixture
def servers(
    stack: Stack, certificates: Certificates, tmp_path: Path
) -> Iterator[tuple[SecurePostgres, Kafka, Connect]]:
    """PostgreSQL, a broker and a Connect worker that take or make nothing in clear; the registry is shared."""
    postgres_port, kafka_port, controller_port, connect_port = free_ports(4)
    login = Login(USER, PASSWORD, certificates.server, certificates.ca)
    postgres = SecurePostgres(tmp_path / "postgres", postgres_port, debian_programs(), certificates)
    kafka = Kafka(tmp_path / "kafka", kafka_port, controller_port, login=login)
    connect = Connect(
        tmp_path / "connect",
        connect_port,
        bootstrap=kafka.bootstrap,
        registry_url=stack.registry.native_url,
        settings=worker_lines(certificates, tmp_path / "kafka.properties"),
    )
    with ExitStack() as cleanup:
        for server in (postgres, kafka, connect):
            cleanup.callback(server.wipe)
            server.start()
        yield postgres, kafka, connect


def worker_lines(certificates: Certificates, secret: Path) -> dict[str, str]:
    """The page's lines for a Connect worker, with this test's files in place of the page's."""
    write_properties(secret, {"password": PASSWORD})
    recipe = WORKER_RECIPE.replace("/path/ca.pem", str(certificates.ca))
    recipe = recipe.replace("/path/kafka.properties", str(secret)).replace('"connect"', f'"{USER}"')
    return dict(line.split("=", 1) for line in recipe.splitlines())


@pytest.fixture
def pipeline(
    stack: Stack,
    servers: tuple[SecurePostgres, Kafka, Connect],
    certificates: Certificates,
    tmp_path: Path,
) -> Iterator[Pipeline]:
    """The product's commands, told what docs/security.md tells an operator."""
    postgres, kafka, connect = servers
    tls = {"sslmode": "verify-full", "sslrootcert": str(certificates.ca)}
    for name in ("source", "target"):
        postgres.create_database(name, narrow=name == "source")
    source, target = (
        make_conninfo(postgres.dsn(name), host="localhost", **tls) for name in ("source", "target")
    )
    (password := tmp_path / "password").write_text(PASSWORD)
    settings = {
        "CDC_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
        "CDC_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "CDC_KAFKA__SASL_MECHANISM": SCRAM,
        "CDC_KAFKA__SASL_USERNAME": USER,
        "CDC_KAFKA__SASL_PASSWORD_FILE": str(password),
        "CDC_KAFKA__SSL_CA_LOCATION": str(certificates.ca),
        "CDC_CONNECT__URL": connect.url,
        "CDC_CONNECT__PASSWORD_REFERENCE": connect.password_reference,
        "CDC_CONNECT__EXTRA": json.dumps({f"database.{name}": value for name, value in tls.items()}),
    }
    with fresh_pipeline(stack, source, target, tmp_path, settings) as fresh:
        yield fresh


def test_the_whole_chain_over_tls(pipeline: Pipeline) -> None:
    """History by COPY, changes by Debezium, and a follower that proves both; no session without TLS."""
    with closing(psycopg.connect(pipeline.source, autocommit=True)) as source:
        source.execute(SAMPLE, [0])
        pipeline.hand_off()
        consumer = pipeline.consume()
        pipeline.succeed("backfill", "run")
        follower = pipeline.product.start("backfill", "verify", "--follow", "--json")
        source.execute(SAMPLE, [1])
        proven = "SELECT count(*) FROM verified WHERE verified_through = '2026-01-01 00:00:15.000001'"
        wait_until(lambda: pipeline.target_value(proven) == 1, "the streamed cell is proven", 120)
        sessions = source.execute(SESSIONS).fetchall()
    assert all(encrypted for *_, encrypted in sessions), sessions
    assert {"walsender", "client backend"} == {kind for _, kind, _ in sessions}
    assert any(name.startswith("backfill verify") for name, *_ in sessions)
    assert follower.terminate() == ExitCode.DONE, follower.log.read_text()
    assert consumer.running
    pipeline.succeed("cdc-consumer", "check")
