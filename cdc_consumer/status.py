"""`cdc-consumer status`: where the stream stands, part by part.

In: settings. Out: facts as plain values, for a table or JSON. Guarantee: a part that does not answer shows its
reason in place of its facts, and the others are shown all the same. Nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final, Self

from cdc_consumer import source_database
from cdc_consumer.connector import snapshot_name
from cdc_consumer.deployment import probe_registry
from cdc_consumer.parts import Parts
from cdc_consumer.settings import Settings
from cdc_consumer.slot import read_slot
from widetable import state
from widetable.errors import ConfigurationError
from widetable.hand_off import HandOff, read_ledger
from widetable.lsn import format_lsn
from widetable.part import told
from widetable.settled import read_settled
from widetable.state import Facts
from widetable.verify import verified_summary

__all__ = ["Lookout", "status"]


def status(settings: Settings) -> Facts:
    """All facts, by part; a part that could not be read is `{"error": reason}`."""
    with Lookout(settings) as lookout:
        return lookout.look()


class Lookout:
    """Looks as often as asked; sessions are kept while all is well, and opened anew after an error."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts = Parts(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.__exit__(kind, error, trace)

    def look(self) -> Facts:
        """All facts now."""
        facts = {name: told(partial(look, self._parts)) for name, look in PARTS.items()}
        if '"error":' in json.dumps(facts):
            self._parts.__exit__(None, None, None)
            self._parts = Parts(self._settings)
        return facts


# -- parts --------------------------------------------------------------------------------------------------


def _connections(parts: Parts) -> Facts:
    found = {name: told(partial(look, parts)) for name, look in CONNECTIONS.items()}
    return found | {"sessions": None if "error" in found["target"] else state.session_count(parts.target())}


def _registry(parts: Parts) -> Facts:
    return {"state": "answers" if probe_registry(parts.settings) else "not needed"}


CONNECTIONS: Final[dict[str, Callable[[Parts], Facts]]] = {
    "source": lambda parts: state.server_facts(parts.source()),
    "target": lambda parts: state.server_facts(parts.target()),
    "kafka": lambda parts: {"state": "connected", "brokers": parts.kafka().broker_count()},
    "connect": lambda parts: {"state": "answers", "version": parts.connect().version()},
    "registry": _registry,
}


def _hand_off(parts: Parts) -> Facts:
    return state.hand_off_facts(parts.latest_hand_off(), parts.settings.pipeline.name)


def _slot(parts: Parts) -> Facts:
    source = parts.source()
    slot = read_slot(source, _current(parts).slot)
    if slot is None:
        return {"state": "missing"}
    alive = "active" if slot.active_pid else "inactive"
    budget = source_database.server(source).wal_budget
    confirmed = format_lsn(slot.confirmed_flush) if slot.confirmed_flush is not None else None
    described = f"lost ({slot.lost})" if slot.lost else alive
    facts = state.slot_facts(slot.name, described, slot.retained_bytes, None if budget < 0 else budget)
    return facts | {"confirmed": confirmed}


def _connector(parts: Parts) -> Facts:
    name = parts.settings.connector
    found = parts.connect().state(name)
    if found is None:
        return {"name": name, "state": "not registered"}
    history = parts.connect().state(snapshot_name(name))
    more = {"reason": found.failed.reason} if found.failed else {}
    more |= {"snapshot": history.summary} if history else {}
    return {"name": name, "state": found.summary, "tasks": [task.state for task in found.tasks], **more}


def _ledger(parts: Parts) -> Facts:
    hand_off = _current(parts)
    rows = read_ledger(parts.control(), hand_off.pipeline, hand_off.topic_id)
    ends = parts.kafka().end_offsets(hand_off.topic, [row.partition for row in rows])
    partitions = [
        {
            "partition": row.partition,
            "next_offset": row.next_offset,
            "end_offset": ends[row.partition],
            "lag": ends[row.partition] - row.next_offset,
            "owner": row.owner,
            "updated_at": row.updated_at.isoformat(timespec="seconds"),
        }
        for row in rows
    ]
    return {"lag": sum(part["lag"] for part in partitions), "partitions": partitions}


def _ships(parts: Parts) -> Facts:
    return state.ship_facts(parts.control(), parts.settings.pipeline.name)


def _history(parts: Parts) -> Facts:
    return state.history_facts(state.read_plans(parts.control(), parts.settings.pipeline.name))


def _cells(parts: Parts) -> Facts:
    return state.cell_facts(parts.control(), parts.settings.pipeline.name)


def _settled(parts: Parts) -> Facts:
    settled = read_settled(parts.control(), _current(parts).pipeline)
    return {"lsn": format_lsn(settled.lsn) if settled else None, "epoch": settled.epoch if settled else None}


def _verified(parts: Parts) -> Facts:
    return verified_summary(parts.control(), parts.settings.pipeline.name)


def _current(parts: Parts) -> HandOff:
    hand_off = parts.hand_off()
    if hand_off is None:
        raise ConfigurationError("needs a hand-off")
    return hand_off


PARTS: Final[dict[str, Callable[[Parts], Facts]]] = {
    "connections": _connections,
    "hand_off": _hand_off,
    "slot": _slot,
    "connector": _connector,
    "stream": _ledger,
    "history": _history,
    "cells": _cells,
    "settled": _settled,
    "verified": _verified,
    "ships": _ships,
}
