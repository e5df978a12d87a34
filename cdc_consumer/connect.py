"""Kafka Connect's REST interface, as far as one connector needs it.

In: requests by name. Out: plain dataclasses, or an error that says what to do. Guarantee: a worker that is
down, busy with a rebalance, behind a login, or not a Connect worker at all are four different messages.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx

from cdc_consumer.settings import ConnectSettings
from cdc_consumer.web import http_client, refuse_untrusted
from widetable.errors import ConfigurationError, UnreachableError

GATEWAY: Final = frozenset({502, 503, 504})
"""A proxy's own words, often HTML, about a worker that is down or starting: that passes."""
REBALANCE_S: Final = 60.0
"""While workers rebalance, Connect answers 409; that takes seconds, or a lost worker's grace period."""
REBALANCE: Final = "rebalance is expected"
"""Some of its requests answer the same as 500."""

POLL_S: Final = 0.2
JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskState:
    """State of the connector itself or of one task."""

    state: str
    trace: str = ""

    @property
    def reason(self) -> str:
        """The first line of the trace and its root cause, without the stack."""
        lines = [line.strip() for line in self.trace.splitlines() if line.strip()]
        causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
        return " <- ".join(dict.fromkeys([*lines[:1], *causes[-1:]]))


@dataclass(frozen=True, slots=True)
class ConnectorState:
    """A connector and its tasks."""

    connector: TaskState
    tasks: tuple[TaskState, ...]

    @property
    def running(self) -> bool:
        """Whether the connector and at least one task run, and no task does anything else."""
        everyone = (self.connector, *self.tasks)
        return bool(self.tasks) and all(part.state == "RUNNING" for part in everyone)

    @property
    def failed(self) -> TaskState | None:
        """The connector or the task that failed."""
        return next((part for part in (self.connector, *self.tasks) if part.state == "FAILED"), None)

    @property
    def summary(self) -> str:
        """One word for all of it: FAILED, RUNNING, or what the first part that isn't running does."""
        if self.failed:
            return "FAILED"
        others = [part.state for part in (self.connector, *self.tasks) if part.state != "RUNNING"]
        return others[0] if others else ("RUNNING" if self.tasks else "STARTING")


@dataclass(frozen=True, slots=True)
class StoredOffset:
    """Debezium's position as Connect stored it, after Kafka acknowledged all records up to it.

    Attributes:
        lsn_commit: end of the last commit whose changes were all sent before this position.
    """

    lsn_commit: int | None
    raw: JsonObject

    @property
    def reached(self) -> int:
        """The farthest LSN that Connect has seen; Debezium confirms none beyond it."""
        return max(int(self.raw.get(name) or 0) for name in ("lsn", "lsn_proc", "lsn_commit"))


class Connect:
    """A client for one Connect cluster; a context manager."""

    def __init__(self, settings: ConnectSettings, transport: httpx.BaseTransport | None = None) -> None:
        self._client = http_client(
            "CDC_CONNECT__CA_LOCATION",
            settings.ca_location,
            settings.auth_user,
            settings.auth_password,
            base_url=settings.url,
            timeout=settings.timeout_s,
            headers={"Accept": "application/json"},
            transport=transport,
        )
        self._place = self._client.base_url.copy_with(userinfo=b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def version(self) -> str:
        """The worker's Kafka version."""
        return str(self._object(self._request("GET", "/")).get("version", "unknown"))

    def plugins(self) -> dict[str, str]:
        """Version of each connector class that is installed."""
        found = self._list(self._request("GET", "/connector-plugins"))
        return {str(plugin["class"]): str(plugin.get("version", "")) for plugin in found}

    def validate(self, config: dict[str, str]) -> list[str]:
        """What Connect and the connector find wrong with a configuration; it tries its database, too."""
        path = f"/connector-plugins/{config['connector.class']}/config/validate"
        answer = self._object(self._request("PUT", path, json=config))
        values = [entry["value"] for entry in answer.get("configs", [])]
        return [f"{value['name']}: {text}" for value in values for text in value.get("errors", [])]

    def config(self, name: str) -> dict[str, str] | None:
        """The connector's configuration, or None when there is no such connector."""
        return self._maybe(self._request("GET", f"/connectors/{name}/config", missing_ok=True))

    def create_stopped(self, name: str, config: dict[str, str]) -> None:
        """Register a connector that does not start yet (Connect 3.7 or newer)."""
        body = {"name": name, "config": config, "initial_state": "STOPPED"}
        self._request("POST", "/connectors", json=body)

    def put_config(self, name: str, config: dict[str, str]) -> None:
        """Change a connector's configuration; its state stays."""
        self._request("PUT", f"/connectors/{name}/config", json=config)

    def state(self, name: str) -> ConnectorState | None:
        """The connector's and its tasks' states, or None when there is no such connector."""
        status = self._maybe(self._request("GET", f"/connectors/{name}/status", missing_ok=True))
        if status is None:
            return None
        parts = [TaskState(part["state"], part.get("trace", "")) for part in status.get("tasks", [])]
        connector = status["connector"]
        return ConnectorState(TaskState(connector["state"], connector.get("trace", "")), tuple(parts))

    def resume(self, name: str) -> None:
        """Start a stopped connector."""
        self._request("PUT", f"/connectors/{name}/resume")

    def restart_failed(self, name: str) -> None:
        """Restart what failed of a connector."""
        query = "includeTasks=true&onlyFailed=true"
        self._request("POST", f"/connectors/{name}/restart?{query}")

    def stop(self, name: str) -> None:
        """Stop a connector and wait until its tasks are gone."""
        self._request("PUT", f"/connectors/{name}/stop")
        deadline = time.monotonic() + REBALANCE_S
        while (state := self.state(name)) is not None:
            if state.connector.state == "STOPPED" and not state.tasks:
                return
            if time.monotonic() > deadline:
                raise UnreachableError(f"connector {name!r} does not stop; look at Kafka Connect's log")
            time.sleep(POLL_S)

    def delete(self, name: str) -> None:
        """Remove a connector; its stored offsets outlive it unless they were reset before."""
        self._request("DELETE", f"/connectors/{name}", missing_ok=True)

    def stored_offset(self, name: str) -> StoredOffset | None:
        """Where the connector would resume; None before anything was stored."""
        answer = self._maybe(self._request("GET", f"/connectors/{name}/offsets", missing_ok=True))
        entries = [entry["offset"] for entry in (answer or {}).get("offsets", []) if entry.get("offset")]
        if not entries:
            return None
        lsn_commit = entries[0].get("lsn_commit")
        return StoredOffset(None if lsn_commit is None else int(lsn_commit), entries[0])

    def store_offset(self, name: str, partition: JsonObject, offset: JsonObject) -> None:
        """Write the position from which a stopped connector will resume."""
        body = {"offsets": [{"partition": partition, "offset": offset}]}
        self._request("PATCH", f"/connectors/{name}/offsets", json=body)

    def reset_offsets(self, name: str) -> None:
        """Forget the position of a stopped connector."""
        self._request("DELETE", f"/connectors/{name}/offsets")

    def _request(
        self, method: str, path: str, *, json: object = None, missing_ok: bool = False
    ) -> httpx.Response:
        """One request, repeated while the workers rebalance."""
        deadline = time.monotonic() + REBALANCE_S
        while True:
            try:
                response = self._client.request(method, path, json=json)
            except httpx.TransportError as error:
                refuse_untrusted(f"Kafka Connect at {self._place}", "CDC_CONNECT__CA_LOCATION", error)
                raise UnreachableError(
                    f"Kafka Connect at {self._place} does not answer ({error or type(error).__name__}):"
                    " is it up, and is CDC_CONNECT__URL right?"
                ) from error
            if not _rebalancing(response) or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        if response.is_success or (missing_ok and response.status_code == httpx.codes.NOT_FOUND):
            return response
        raise self._error(response)

    def _error(self, response: httpx.Response) -> ConfigurationError | UnreachableError:
        code = response.status_code
        if code in {
            httpx.codes.UNAUTHORIZED,
            httpx.codes.FORBIDDEN,
            httpx.codes.PROXY_AUTHENTICATION_REQUIRED,
        }:
            return ConfigurationError(
                f"Kafka Connect at {self._place} refuses us (HTTP {code}):"
                " set CDC_CONNECT__AUTH_USER and CDC_CONNECT__AUTH_PASSWORD_FILE"
            )
        try:
            message = " ".join(str(self._object(response).get("message", "")).split())
        except ConfigurationError as error:
            if code not in GATEWAY:
                return error
            message = response.reason_phrase
        text = f"Kafka Connect at {self._place} answers HTTP {code}: {message or 'no reason given'}"
        # A reference that its config provider can't resolve is a 500, too, and does not pass.
        passing = code == httpx.codes.CONFLICT or (response.is_server_error and "ConfigException" not in text)
        return UnreachableError(text) if passing else ConfigurationError(text)

    def _maybe(self, response: httpx.Response) -> JsonObject | None:
        answer = self._object(response)  # a web server's own 404 is not Connect's
        return None if response.status_code == httpx.codes.NOT_FOUND else answer

    def _object(self, response: httpx.Response) -> JsonObject:
        answer = self._json(response)
        if not isinstance(answer, dict):
            raise self._not_connect(response)
        return answer

    def _list(self, response: httpx.Response) -> list[JsonObject]:
        answer = self._json(response)
        if not isinstance(answer, list):
            raise self._not_connect(response)
        return answer

    def _json(self, response: httpx.Response) -> object:
        try:
            return response.json()
        except ValueError:
            raise self._not_connect(response) from None

    def _not_connect(self, response: httpx.Response) -> ConfigurationError:
        kind = response.headers.get("content-type", "nothing that has a type").split(";")[0]
        return ConfigurationError(
            f"{self._place} answers with {kind} (HTTP {response.status_code}), not as Kafka Connect does:"
            " check CDC_CONNECT__URL"
        )


def _rebalancing(response: httpx.Response) -> bool:
    """Whether the same request will be answered in a moment."""
    return response.status_code == httpx.codes.CONFLICT or (
        response.status_code == httpx.codes.INTERNAL_SERVER_ERROR and REBALANCE in response.text
    )
