"""Registry and Connect behind TLS and a login, by a small real HTTPS server."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cdc_consumer.connect import Connect
from cdc_consumer.registry import open_registry
from cdc_consumer.settings import ConnectSettings, RegistrySettings
from tests.certificates import Certificates, make_certificates
from widetable.errors import ConfigurationError

PASSWORD = "web-hunter2"
EXPECTED = "Basic " + base64.b64encode(f"pipeline:{PASSWORD}".encode()).decode()


class Handler(BaseHTTPRequestHandler):
    """Answers as both services do, to whoever knows the password."""

    def do_GET(self) -> None:
        """A schema that is a version, too."""
        known = self.headers.get("Authorization") == EXPECTED
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"schema": '"string"', "version": "4.3.1"}).encode() if known else b"{}")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once for the module."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def port(certificates: Certificates) -> Iterator[int]:
    """The server's port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def ask(service: str, port: int, ca: Path, password: str = PASSWORD) -> str:
    """One request to a service, as an operator set it."""
    given = {
        "url": f"https://localhost:{port}",
        "auth_user": "pipeline",
        "auth_password": password,
        "ca_location": str(ca),
    }
    if service == "connect":
        with Connect(ConnectSettings.model_validate(given)) as connect:
            return connect.version()
    return open_registry(RegistrySettings.model_validate(given)).schema(1)


@pytest.mark.parametrize(("service", "answer"), [("connect", "4.3.1"), ("registry", '"string"')])
def test_a_service_behind_tls_and_a_login_is_reached(
    port: int, certificates: Certificates, service: str, answer: str
) -> None:
    """With the authority and the password that the settings name."""
    assert ask(service, port, certificates.ca) == answer


@pytest.mark.parametrize("service", ["connect", "registry"])
def test_an_authority_that_did_not_sign_is_refused(
    port: int, certificates: Certificates, service: str
) -> None:
    """A configuration error that names the setting, not an outage."""
    with pytest.raises(ConfigurationError, match=f"CDC_{service.upper()}__CA_LOCATION") as refused:
        ask(service, port, certificates.stranger)
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("service", ["connect", "registry"])
def test_a_wrong_password_is_refused_and_not_shown(
    port: int, certificates: Certificates, service: str
) -> None:
    """The message does not repeat it."""
    with pytest.raises(ConfigurationError, match="refuses") as refused:
        ask(service, port, certificates.ca, password="hunter3")
    assert "hunter" not in str(refused.value)


def test_a_file_that_is_no_authority_is_named(port: int, certificates: Certificates) -> None:
    """Rather than taken for a server that is away."""
    with pytest.raises(ConfigurationError, match="no file of certificates"):
        ask("connect", port, certificates.ca.with_name("absent.pem"))
