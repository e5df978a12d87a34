"""PostgreSQL over TLS with `sslmode=verify-full`: every kind of session of both programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from backfill.reader import Limits, Reader
from devstack.service import free_ports
from tests.certificates import Certificates, make_certificates
from tests.secure_postgres import SecurePostgres, debian_programs
from widetable.errors import ConfigurationError
from widetable.postgres import connect_ddl, connect_source, connect_target
from widetable.settings import SourceSettings, TargetSettings


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
