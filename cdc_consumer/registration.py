"""The connector in Kafka Connect: registered, told where to begin, started, and seen to work.

In: a hand-off. Out: a running connector that streams from the hand-off's consistent point, and a sentence
for each change made. Guarantee: it never starts without a stored position. A Debezium connector that has
none takes the server's present WAL position for its own until it has read its first commit, and would skip
everything between the slot's creation and its start if it were restarted then; and it would silently create
a slot that is missing. So a new connector is created STOPPED, its position is set to the consistent point,
and only then does it start.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import structlog

from cdc_consumer.connect import Connect
from cdc_consumer.connector import CONNECTOR_CLASS, Connector, render
from cdc_consumer.deployment import Deployment
from cdc_consumer.settings import Settings
from cdc_consumer.slot import Slot
from cdc_consumer.topic import Topics
from widetable.errors import ConfigurationError, UnreachableError
from widetable.hand_off import HandOff
from widetable.lsn import format_lsn
from widetable.settled import beat

log = structlog.get_logger(__name__)

Report = Callable[[str], None]
"""Is told, in a sentence, of each change that a command makes."""

POLL_S: Final = 0.3
OLD_STATE_S: Final = 5.0
"""How long after a restart Connect may still report the state before it."""

DEBEZIUM_NEEDED: Final = (3, 7)
CONNECT_NEEDED: Final = (3, 7)
RUNBOOK: Final = (
    "Begin a new epoch: `cdc-consumer reinit`. What changed at the source in between is in no stream:"
    " run `backfill verify --repair` afterwards"
)
"""What can be done when the stream is broken for good."""

HINTS: Final = {
    r"replication slot .* is active": (
        "another process reads that slot: stop it, or set CDC_CONNECT__SLOT to another name"
    ),
    r"authentication failed|no password|SCRAM": (
        "check CDC_CONNECT__SOURCE_USER and what stands behind CDC_CONNECT__PASSWORD_REFERENCE"
    ),
    r"[Cc]onfig ?[Pp]rovider|Could not read|NoSuchFile": (
        "Connect can't resolve CDC_CONNECT__PASSWORD_REFERENCE: check its config.providers and the file"
    ),
    r"refused|UnknownHost|timed out|unreachable|attempt failed": (
        "Connect can't reach the source: set CDC_CONNECT__SOURCE_HOST and …__SOURCE_PORT as Connect sees it"
    ),
    r"no longer available on the server|requested WAL segment|can no longer": RUNBOOK,
    r"publication .* does not exist|Publication autocreation": RUNBOOK,
    r"[Rr]egistry": "check that the schema registry answers Connect's converter",
}
"""What a failing connector says, and what to do about it."""


def require_debezium(connect: Connect) -> str:
    """Refuse a Connect cluster that can't do the work; returns Debezium's version.

    Raises:
        ConfigurationError: the plugin is missing, or it or Connect is too old.
    """
    worker = connect.version()
    if _numbers(worker) < CONNECT_NEEDED:
        raise ConfigurationError(
            f"Kafka Connect is version {worker}; 3.7 is the first that can create a stopped connector:"
            " upgrade it"
        )
    version = connect.plugins().get(CONNECTOR_CLASS)
    if version is None:
        raise ConfigurationError(
            "Kafka Connect lacks Debezium's PostgreSQL connector: put it on the workers' plugin.path and"
            " restart them"
        )
    if _numbers(version) < DEBEZIUM_NEEDED:
        raise ConfigurationError(
            f"Debezium is version {version}; before 3.7 a restart can lose rows of one COPY: upgrade it"
        )
    return version


def register(deployment: Deployment, hand_off: HandOff, slot: Slot, wait_s: float, report: Report) -> None:
    """Have the connector of this hand-off run; `report` hears of each change, of none where it runs already.

    Raises:
        ConfigurationError: it fails, and the message says why; or its position is lost.
        UnreachableError: no heartbeat came through in time.
    """
    settings, connect, topics = deployment.settings, deployment.connect, deployment.topics
    wanted = render(settings, hand_off.placeholder)
    before = _heartbeats(topics, settings.heartbeat_topic)
    changes = _configure(connect, wanted)
    if _needs_start(connect, wanted.name, hand_off):
        _set_start(settings, hand_off, connect, slot)
        changes.append(f"set the connector's position to {format_lsn(hand_off.consistent_point)}")
    changes += _start(connect, wanted.name)
    for change in changes:
        report(change)
    began = time.monotonic()
    _wait_running(connect, wanted.name, began, wait_s)
    if changes:
        beat(deployment.source, settings.source.heartbeat_table)
        _wait_heartbeat(settings, connect, topics, before, wait_s)


def failure(name: str, reason: str) -> ConfigurationError:
    """The error for a connector that failed, with what to do about it where that is known."""
    hint = next((hint for pattern, hint in HINTS.items() if re.search(pattern, reason)), None)
    advice = hint or "see Kafka Connect's log, mend the cause, then run `cdc-consumer init` again"
    return ConfigurationError(f"connector {name} failed: {reason}. What to do: {advice}")


def _configure(connect: Connect, wanted: Connector) -> list[str]:
    present = connect.config(wanted.name)
    if present == {**wanted.config, "name": wanted.name}:
        return []
    _refuse_invalid(connect, wanted)
    if present is None:
        connect.create_stopped(wanted.name, wanted.config)
        return [f"registered connector {wanted.name}"]
    connect.put_config(wanted.name, wanted.config)
    return [f"changed the configuration of connector {wanted.name}"]


def _refuse_invalid(connect: Connect, wanted: Connector) -> None:
    """Connect would refuse the same configuration, in a longer message and without advice."""
    try:
        problems = connect.validate({**wanted.config, "name": wanted.name})
    except ConfigurationError as error:
        raise failure(wanted.name, str(error)) from error
    if problems:
        raise failure(wanted.name, "; ".join(problems))


def _needs_start(connect: Connect, name: str, hand_off: HandOff) -> bool:
    """Whether the stored position is missing, or left over from an earlier epoch."""
    stored = connect.stored_offset(name)
    return stored is None or (stored.lsn_commit or 0) < hand_off.consistent_point


def _set_start(settings: Settings, hand_off: HandOff, connect: Connect, slot: Slot) -> None:
    """Store L0 as if a transaction that ends there had been sent: the very state of an ordinary restart."""
    start = hand_off.consistent_point
    if slot.confirmed_flush is not None and slot.confirmed_flush > start:
        raise ConfigurationError(
            f"Connect has no position for connector {settings.connector}, but slot {slot.name} has moved on"
            f" from {format_lsn(start)} to {format_lsn(slot.confirmed_flush)}: changes may be lost. {RUNBOOK}"
        )
    connect.stop(settings.connector)
    position = {"lsn": start, "lsn_proc": start, "lsn_commit": start, "messageType": "COMMIT"}
    connect.store_offset(settings.connector, {"server": settings.topic_prefix}, position)


def _start(connect: Connect, name: str) -> list[str]:
    state = connect.state(name)
    if state is not None and state.failed:
        connect.restart_failed(name)
        return [f"restarted connector {name}, which had failed: {state.failed.reason}"]
    if state is None or state.connector.state in {"STOPPED", "PAUSED"}:
        connect.resume(name)
        return [f"started connector {name}"]
    return []


def _wait_running(connect: Connect, name: str, began: float, wait_s: float) -> None:
    """Wait until connector and task run; a failure just after `began` may still be that of the last run."""
    while (state := connect.state(name)) is None or not state.running:
        waited_s = time.monotonic() - began
        if state is not None and state.failed and waited_s > min(OLD_STATE_S, wait_s):
            raise failure(name, state.failed.reason)
        if waited_s > wait_s:
            seen = state.summary if state else "not registered"
            raise UnreachableError(f"connector {name} is {seen}, not RUNNING; see Kafka Connect's log")
        time.sleep(POLL_S)


def _wait_heartbeat(settings: Settings, connect: Connect, topics: Topics, before: int, wait_s: float) -> None:
    """A record in the heartbeat's topic proves the way from the source by Connect and registry to Kafka."""
    log.info("waiting for the first heartbeat", topic=settings.heartbeat_topic)
    began = time.monotonic()
    while _heartbeats(topics, settings.heartbeat_topic) <= before:
        _wait_running(connect, settings.connector, began, wait_s)
        if time.monotonic() - began > wait_s:
            raise UnreachableError(
                f"connector {settings.connector} runs, but no heartbeat arrived in topic"
                f" {settings.heartbeat_topic}: see Kafka Connect's log, then run `cdc-consumer init` again"
            )
        time.sleep(POLL_S)


def _heartbeats(topics: Topics, topic: str) -> int:
    """How many records the heartbeat's topic has ever had; Connect makes it with the first."""
    found = topics.describe(topic)
    return sum(topics.end_offsets(topic, range(found.partitions)).values()) if found else 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
