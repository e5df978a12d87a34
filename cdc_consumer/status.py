"""`cdc-consumer status`: where the stream stands, part by part.

In: settings. Out: facts as plain values, for a table or JSON. Guarantee: a part that does not answer shows its
reason in place of its facts, and the others are shown all the same. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from cdc_consumer.parts import Parts
from cdc_consumer.settings import Settings
from cdc_consumer.slot import read_slot
from widetable.command_line import named
from widetable.errors import ConfigurationError
from widetable.hand_off import HandOff, read_ledger
from widetable.lsn import format_lsn
from widetable.settled import read_settled
from widetable.verify import verified_summary

Facts = dict[str, Any]
MB: Final = 1 << 20

COUNTS: Final = """
SELECT (SELECT count(*) FROM overflow_cell), (SELECT count(*) FROM dead_cell WHERE pipeline = %(pipeline)s),
       (SELECT count(*) FROM channel WHERE state = 'pending'), (SELECT count(*) FROM ship WHERE state = 'pending')
"""


def status(settings: Settings) -> Facts:
    """All facts, by part; a part that could not be read is `{"error": reason}`."""
    with Parts(settings) as parts:
        return {name: _read(look, parts) for name, look in PARTS.items()}


def _read(look: Callable[[Parts], Facts], parts: Parts) -> Facts:
    try:
        return look(parts)
    except Exception as error:
        known = named(error)
        if known is None:
            raise
        return {"error": str(known)}


def _hand_off(parts: Parts) -> Facts:
    latest = parts.latest_hand_off()
    if latest is None:
        return {"pipeline": parts.settings.pipeline.name, "state": "no hand-off: run `cdc-consumer init`"}
    return {
        "pipeline": latest.pipeline,
        "state": "torn down" if latest.ended else "streaming",
        "epoch": latest.epoch,
        "consistent_point": format_lsn(latest.consistent_point),
        "barrier_xid": latest.barrier_xid,
        "topic": latest.topic,
        **({"verify_required": latest.verify_required} if latest.verify_required else {}),
    }


def _slot(parts: Parts) -> Facts:
    slot = read_slot(parts.source(), _current(parts).slot)
    if slot is None:
        return {"state": "missing"}
    return {
        "name": slot.name,
        "state": f"lost ({slot.lost})" if slot.lost else ("active" if slot.active_pid else "inactive"),
        "retained_bytes": slot.retained_bytes,
        "confirmed": format_lsn(slot.confirmed_flush) if slot.confirmed_flush is not None else None,
    }


def _connector(parts: Parts) -> Facts:
    name = parts.settings.connector
    state = parts.connect().state(name)
    if state is None:
        return {"name": name, "state": "not registered"}
    failed = {"reason": state.failed.reason} if state.failed else {}
    return {"name": name, "state": state.summary, "tasks": [task.state for task in state.tasks], **failed}


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


def _cells(parts: Parts) -> Facts:
    found = parts.control().execute(COUNTS, {"pipeline": parts.settings.pipeline.name}).fetchone() or ()
    names = ("overflow_cells", "dead_cells", "pending_channels", "pending_ships")
    return dict(zip(names, found, strict=True))


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
    "hand_off": _hand_off,
    "slot": _slot,
    "connector": _connector,
    "stream": _ledger,
    "cells": _cells,
    "settled": _settled,
    "verified": _verified,
}


def lines(facts: Facts) -> Iterator[str]:
    """The facts as text: one line per part, then a table of the partitions."""
    for name, part in facts.items():
        shown = {key: value for key, value in part.items() if key != "partitions"}
        yield f"{name.replace('_', '-'):<12}" + ", ".join(_shown(key, value) for key, value in shown.items())
    if partitions := facts["stream"].get("partitions"):
        yield ""
        yield f"{'partition':>9} {'next offset':>14} {'end offset':>14} {'lag':>10}  owner"
        for row in partitions:
            counts = f"{row['next_offset']:>14,} {row['end_offset']:>14,} {row['lag']:>10,}"
            yield f"{row['partition']:>9} {counts}  {row['owner'] or '-'}"


def _shown(key: str, value: object) -> str:
    if key == "retained_bytes" and isinstance(value, int):
        return f"retains {value / MB:,.0f} MB"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, int) and key != "barrier_xid":
        value = f"{value:,}"
    label = key.replace("_", " ")
    return (
        str(value)
        if key in {"state", "pipeline", "name", "error"}
        else f"{label} {value if value is not None else '-'}"
    )
