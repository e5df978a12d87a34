"""A PostgreSQL that speaks TLS only: Debian's, for the one of the Python environment is built without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devstack.postgres import Postgres, write_private
from tests.certificates import Certificates

DEBIAN = Path("/usr/lib/postgresql")
NO_SERVER = "no PostgreSQL with TLS: install Debian's package postgresql"
HBA = """
hostssl all all 127.0.0.1/32 scram-sha-256
"""
"""What comes without TLS finds no line."""


class SecurePostgres(Postgres):
    """One cluster with a certificate, and nothing but TLS."""

    def __init__(self, folder: Path, port: int, programs: Path, certificates: Certificates) -> None:
        super().__init__(folder, port, {"ssl": "on", "fsync": "off"}, programs=programs)
        files = {"ssl_cert_file": "server.pem", "ssl_key_file": "server.pem", "hba_file": "tls_hba.conf"}
        self.settings |= {setting: str(self.data / name) for setting, name in files.items()}
        self._certificates = certificates

    def _prepare(self) -> None:
        super()._prepare()
        write_private(self.data / "server.pem", self._certificates.server.read_text())
        write_private(self.data / "tls_hba.conf", HBA)


def debian_programs() -> Path:
    """The programs of the newest server that Debian has installed; skips where there is none, fails in CI."""
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: float(path.parent.parent.name))
    if found:
        return found[-1].parent
    if os.environ.get("CI") == "true":
        pytest.fail(NO_SERVER)
    pytest.skip(NO_SERVER)
