"""PostgreSQL over TLS with `sslmode=verify-full`: every session of both programs, and Debezium's, to the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from backfill.reader import Limits, Reader
from devstack.service import free_ports
from devstack.stack import Stack
from tests.certificates import Certificates, make_certificates
from tests.chain_pipeline import Pipeline, fresh_pipeline
from tests.secure_postgres import SecurePostgres, debian_programs
from tests.waiting import wait_until
from widetable.errors import ConfigurationError, ExitCode
from widetable.postgres import connect_ddl, connect_source, connect_target
from widetable.settings import SourceSettings, TargetSettings

NARROW = "tenant.tbl_data_timeseries"
SAMPLE = f"""INSERT INTO {NARROW} (ship_id, data_channel_id, created_time, double_v, value_format)
             VALUES ('SHIP', 'a/b', timestamp '2026-01-01' + interval '15 s' * %s, 1, 'Decimal')"""
SESSIONS = """
SELECT a.application_name, a.backend_type, coalesce(s.ssl, false)
FROM pg_stat_activity a LEFT JOIN pg_stat_ssl s USING (pid)
WHERE a.backend_type IN ('client backend', 'walsender')
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once for the module."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecurePostgres]:
    """A server that speaks TLS only."""
    (port,) = free_ports(1)
    made = SecurePostgres(tmp_path_factory.mktemp("secure"), port, debian_programs(), certificates)
    made.start()
    yield made
    made.wipe()


def trusting(server: SecurePostgres, ca: Path, database: str = "postgres", **more: str) -> str:
    """A DSN as an operator sets it: nothing but the right server will do."""
    return make_conninfo(
        server.dsn(database), host="localhost", sslmode="verify-full", sslrootcert=str(ca), **more
    )


def read_by_copy(dsn: str) -> None:
    """The session that reads history, which is not psycopg's."""
    Reader(SourceSettings(dsn=SecretStr(dsn)), ("SHIP",), Limits(1, 1, 1)).close()


def as_source(dsn: str) -> None:
    """Either program's session on the source."""
    connect_source(SourceSettings(dsn=SecretStr(dsn)), "test").close()


def as_target(dsn: str) -> None:
    """Either program's session on the target."""
    connect_target(TargetSettings(dsn=SecretStr(dsn)), "test").close()


def as_owner(dsn: str) -> None:
    """The session that makes tables."""
    connect_ddl(TargetSettings(dsn=SecretStr("host=/nowhere"), ddl_dsn=SecretStr(dsn)), "test").close()


@pytest.mark.postgres
@pytest.mark.parametrize("connect", [as_source, as_target, as_owner, read_by_copy])
def test_a_session_trusts_the_right_server_only(
    server: SecurePostgres, certificates: Certificates, connect: Callable[[str], None]
) -> None:
    """Another authority, another host's certificate and no TLS at all are configuration errors, not outages."""
    connect(trusting(server, certificates.ca))
    wrong = {
        "certificate": trusting(server, certificates.stranger),
        "host name": trusting(server, certificates.ca).replace("host=localhost", "host=db.example")
        + " hostaddr=127.0.0.1",
        "pg_hba.conf": make_conninfo(server.dsn(), sslmode="disable"),
    }
    for reason, dsn in wrong.items():
        with pytest.raises(ConfigurationError, match=reason) as refused:
            connect(dsn)
        assert "CDC_" in str(refused.value)
        assert "devstack" not in str(refused.value)


@pytest.fixture
def pipeline(
    stack: Stack, server: SecurePostgres, certificates: Certificates, tmp_path: Path
) -> Iterator[Pipeline]:
    """Both databases behind TLS; Debezium verifies them, too."""
    for name in ("source", "target"):
        server.create_database(name, narrow=name == "source")
    debezium = {"database.sslmode": "verify-full", "database.sslrootcert": str(certificates.ca)}
    source, target = (trusting(server, certificates.ca, name) for name in ("source", "target"))
    extra = {"CDC_CONNECT__EXTRA": json.dumps(debezium)}
    with fresh_pipeline(stack, source, target, tmp_path, extra) as fresh:
        yield fresh


@pytest.mark.stack
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
