"""The schema registry: from the id in a message's frame to the schema that wrote it.

In: an id. Out: the schema's text. Ids never change their meaning, so an answer is kept for ever. An id that
the registry does not know, nor some seconds later, is the message's fault (a dead cell); a registry that does not
answer is an outage (the loop pauses); an answer that is no registry's is a setting to correct.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, Protocol

import httpx

from cdc_consumer.settings import RegistrySettings
from cdc_consumer.web import http_client, refuse_untrusted
from widetable.errors import ConfigurationError, PoisonError, UnreachableError

LARGEST_SCHEMA_ID: Final = 2**31 - 1
UNKNOWN_SCHEMA: Final = frozenset({40401, 40403})
"""Confluent's error codes; a wrong path is a 404 too, but another code. Apicurio 3 answers 40401 where the schema's
text is still there and every artifact that had it was deleted."""

HEARSAY_S: Final = 5.0
"""An instance of several may hear so late of a schema that another one has just registered."""
IN_VAIN_S: Final = 60.0
"""Who has waited in vain does not wait for the next unknown id: garbage must not stop the stream."""


class SchemaSource(Protocol):
    """Where schemas come from; tests pass a dictionary's."""

    def schema(self, schema_id: int) -> str:
        """The Avro schema with this id, as JSON text.

        Raises:
            PoisonError: there is no such schema.
            UnreachableError: it can't be found out at present; try again.
        """
        ...


def open_registry(settings: RegistrySettings, hearsay_s: float = 0.0) -> Registry:
    """The registry that the settings name, with its login and certificate authority."""
    client = http_client(
        "CDC_REGISTRY__CA_LOCATION",
        settings.ca_location,
        settings.auth_user,
        settings.auth_password,
        timeout=settings.timeout_s,
    )
    return Registry(settings.url, client=client, hearsay_s=hearsay_s)


class Registry:
    """A registry that speaks Confluent's REST API, such as Apicurio's under ``/apis/ccompat/v7``.

    Args:
        url: base address of that API, up to and without ``/schemas``.
        timeout_s: seconds to wait for an answer.
        client: an HTTP client with credentials or timeouts of its own.
        hearsay_s: for so long after it was first asked for, an id that is unknown may yet become known.
        monotonic_s: for measuring that.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 10.0,
        client: httpx.Client | None = None,
        hearsay_s: float = 0.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url.rstrip("/")
        self._client = client or httpx.Client(timeout=timeout_s)
        self._schemas: dict[int, str] = {}
        self._hearsay_s = hearsay_s
        self._now = monotonic_s
        self._unknown_since: dict[int, float] = {}
        self._in_vain_at = -math.inf

    def schema(self, schema_id: int) -> str:
        """The Avro schema with this id, asked for once.

        Raises:
            PoisonError: the registry has no such schema, or it is not Avro.
            UnreachableError: the registry does not answer, or answers that it can't at present.
            ConfigurationError: what answers is not a registry, or it refuses this client.
        """
        if schema_id > LARGEST_SCHEMA_ID:
            raise PoisonError(f"{schema_id} is no schema id: registries count to {LARGEST_SCHEMA_ID}")
        if schema_id not in self._schemas:
            self._schemas[schema_id] = self._fetch(schema_id)
        return self._schemas[schema_id]

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def _fetch(self, schema_id: int) -> str:
        try:
            answer = self._client.get(f"{self._url}/schemas/ids/{schema_id}")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigurationError(f"CDC_REGISTRY__URL is not an HTTP address: {error}") from error
        except httpx.TransportError as error:
            refuse_untrusted(
                f"the schema registry at {_shown(self._url)}", "CDC_REGISTRY__CA_LOCATION", error
            )
            message = (
                f"the schema registry at {_shown(self._url)} does not answer ({error}); "
                "see that it runs, and that CDC_REGISTRY__URL is its address"
            )
            raise UnreachableError(message) from error
        self._check_status(answer, schema_id)
        return self._schema_text(answer, schema_id)

    def _check_status(self, answer: httpx.Response, schema_id: int) -> None:
        status = answer.status_code
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise UnreachableError(
                f"the schema registry at {_shown(self._url)} answers {status}; trying again"
            )
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ConfigurationError(
                f"the schema registry at {_shown(self._url)} refuses this client ({status})"
            )
        if status == HTTPStatus.NOT_FOUND and _json(answer).get("error_code") in UNKNOWN_SCHEMA:
            self._await_hearsay(schema_id)
            raise PoisonError(f"the schema registry has no schema with id {schema_id}")

    def _await_hearsay(self, schema_id: int) -> None:
        now = self._now()
        if not self._hearsay_s or now - self._in_vain_at < IN_VAIN_S:
            return
        if now - self._unknown_since.setdefault(schema_id, now) < self._hearsay_s:
            raise UnreachableError(f"the schema registry has no schema with id {schema_id} yet; trying again")
        self._unknown_since.clear()
        self._in_vain_at = now

    def _schema_text(self, answer: httpx.Response, schema_id: int) -> str:
        body = _json(answer)
        if not isinstance(text := body.get("schema"), str):
            message = (
                f"what answers at {_shown(self._url)} is not a schema registry "
                f"with Confluent's API (status {answer.status_code}, "
                f"{answer.headers.get('content-type', 'no content type')}); set CDC_REGISTRY__URL to one "
                "such as http://registry:8080/apis/ccompat/v7"
            )
            raise ConfigurationError(message)
        if body.get("schemaType", "AVRO") != "AVRO":
            raise PoisonError(f"schema {schema_id} is {body['schemaType']}, not Avro")
        if body.get("references"):
            message = f"schema {schema_id} refers to other schemas; let the converter register whole ones"
            raise ConfigurationError(message)
        return text


def _json(answer: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object; empty if it is none."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _shown(url: str) -> str:
    """The address without user and password."""
    return str(httpx.URL(url).copy_with(username=None, password=None))
