"""An authority and a certificate for this machine, made with the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files (PEM): the authority, another one that signed nothing, and a server's key and certificate."""

    ca: Path
    stranger: Path
    server: Path


def make_certificates(folder: Path) -> Certificates:
    """Make them; the certificate is for `localhost` and 127.0.0.1."""
    for name in ("ca", "stranger"):
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")),
        )
    key, request, signed = (str(folder / f"server.{kind}") for kind in ("key", "csr", "crt"))
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    subject = ("-subj", "/CN=localhost")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", *subject, "-keyout", key, "-out", request)
    authority = ("-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial")
    _openssl(
        *("x509", "-req", "-days", "2", "-in", request, *authority, "-extfile", str(names), "-out", signed)
    )
    both = folder / "server.pem"
    both.write_text(Path(key).read_text() + Path(signed).read_text())
    return Certificates(folder / "ca.pem", folder / "stranger.pem", both)


def _openssl(*arguments: str) -> None:
    command = ["openssl", *arguments]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - fixed arguments
