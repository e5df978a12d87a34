"""HTTP clients for the registry and for Connect: a login and a certificate authority, where they are set.

In: settings. Out: an httpx client. Guarantee: a server whose certificate is not trusted is never told a
password, and is told apart from one that is away.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpx
from pydantic import SecretStr

from widetable.errors import ConfigurationError


def http_client(
    setting: str,
    ca_location: str | None,
    user: str | None,
    password: SecretStr | None,
    **more: Any,
) -> httpx.Client:
    """A client that trusts `ca_location` only, or the usual authorities.

    Args:
        setting: the variable that names the file, for the message.
        ca_location: PEM; None for the usual authorities.
        user: for basic authentication; None for none.
        password: of that user.
        more: for httpx.

    Raises:
        ConfigurationError: the file can't be used.
    """
    auth = (user, password.get_secret_value() if password else "") if user else None
    return httpx.Client(verify=_trusted(setting, ca_location), auth=auth, **more)


def _trusted(setting: str, ca_location: str | None) -> ssl.SSLContext | bool:
    if ca_location is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_location)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{setting}: {ca_location} is no file of certificates (PEM)") from error


def refuse_untrusted(service: str, setting: str, error: httpx.TransportError) -> None:
    """Tell a certificate that is not trusted, which waiting does not mend, from a server that is away.

    Raises:
        ConfigurationError: it is the certificate.
    """
    _, found, reason = str(error).partition("CERTIFICATE_VERIFY_FAILED] ")
    if found:
        raise ConfigurationError(
            f"{service} shows a certificate that is not trusted: {reason}. Set {setting} to the authority that"
            " signed it, and use a host name that stands in it"
        ) from error
