"""The narrow table and what Debezium makes of its WAL: a handful of cells, transactions, and Avro messages.

A transaction is in the WAL before it is visible: a commit that waits for a standby stays unseen for a while.
"""

from __future__ import annotations

import io
import struct
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import fastavro

from tests.debezium_events import PLACEHOLDER, VALUE_ID, VALUE_SCHEMA, change, sample


class Key(NamedTuple):
    """Which cell: the primary key of the narrow table."""

    ship: str
    channel: str
    moment_us: int


SHIPS: Final = ("SHIP0", "SHIP1")  # each in the partition of its number
KEYS: Final = (
    *(Key("SHIP0", channel, moment) for moment in (0, 1) for channel in ("a", "b")),
    *(Key("SHIP1", channel, 0) for channel in ("a", "b")),
)
Kind = Literal["value", "null", "delete", "move", "touch"]


class Draft(NamedTuple):
    """What a transaction wants of a cell; an insert where the row is absent, whatever the kind."""

    cell: int
    kind: Kind
    to: int = 0


class Message(NamedTuple):
    """A record on its way to the topic."""

    partition: int
    value: bytes


class Change(NamedTuple):
    """One change of one row: what it was, what it is, and whether Debezium sees the text."""

    before: Key | None
    after: Key | None
    value: str | None
    hidden: bool = False  # the value is in a TOAST table and was not changed


SCHEMA: Final = fastavro.parse_schema(deepcopy(VALUE_SCHEMA))


@dataclass
class SourceTable:
    """The rows, as committed and as a snapshot sees them, and the messages of all changes in WAL order."""

    rows: dict[Key, str | None] = field(default_factory=dict)
    seen: dict[Key, str | None] = field(default_factory=dict)
    unseen: list[Change] = field(default_factory=list)  # of the one transaction that no snapshot shows yet
    wal: list[Message] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # where each transaction begins in the WAL
    slot: int | None = None  # the place in the WAL from which on the stream has all
    barrier: bool = False  # whether all that stands before the slot is visible
    corrected: dict[Key, str] = field(default_factory=dict)  # by an import, and not changed since
    lsn: int = 100
    values: int = 0

    def write(self, drafts: Sequence[Draft], *, one_lsn: bool = False, seen: bool = True) -> None:
        """Commit a transaction; rows locked by an unseen one stay as they are.

        Args:
            drafts: what it does, in order.
            one_lsn: as the rows of one COPY, where no row is changed twice.
            seen: whether snapshots show it at once.
        """
        changes = [change for draft in drafts if (change := self._change(draft))]
        touched = Counter(key for change in changes for key in {change.before, change.after} - {None})
        self.starts.append(len(self.wal))
        self.lsn += 1
        for number, done in enumerate(changes):
            self.lsn += bool(number) and not (one_lsn and max(touched.values()) == 1)
            self.wal += messages(done, self.lsn)
        if seen or self.unseen:
            for done in changes:
                perform(done, self.seen)
        else:
            self.unseen = changes
        self._look()

    def _change(self, draft: Draft) -> Change | None:
        key, to = KEYS[draft.cell % len(KEYS)], KEYS[draft.to % len(KEYS)]
        locked = {end for change in self.unseen for end in (change.before, change.after)}
        if key in locked:
            return None
        self.values += 1
        value = None if draft.kind == "null" else f"v{self.values}"
        done = Change(None, key, value)
        if key in self.rows:
            match draft.kind:
                case "delete":
                    done = Change(key, None, None)
                case "move" if to in self.rows or to in locked:
                    return None
                case "move":
                    done = Change(key, to, self.rows[key])
                case "touch":
                    done = Change(key, key, self.rows[key], hidden=self.rows[key] is not None)
                case _:
                    done = Change(key, key, value)
        perform(done, self.rows)
        if not done.hidden:
            for end in (done.before, done.after):
                self.corrected.pop(end or key, None)
        return done

    def correct(self, key: Key) -> tuple[str, int]:
        """A person's value for a cell, whether the row is there or not, and where the WAL ends."""
        self.values += 1
        self.lsn += 1
        self.corrected[key] = f"k{self.values}"
        return self.corrected[key], self.lsn

    def show(self) -> None:
        """The standby has answered: the transaction becomes visible."""
        for done in self.unseen:
            perform(done, self.seen)
        self.unseen = []
        self._look()

    def make_slot(self) -> None:
        """From here on the stream has every commit."""
        self.slot = len(self.wal)
        self._look()

    def _look(self) -> None:
        """Once passed, the barrier stays passed: what commits later is in the stream."""
        self.barrier = self.barrier or (self.slot is not None and not self.unseen)


def perform(done: Change, rows: dict[Key, str | None]) -> None:
    """Change the rows."""
    if done.before:
        del rows[done.before]
    if done.after:
        rows[done.after] = done.value


def messages(done: Change, lsn: int) -> list[Message]:
    """Debezium's records: a change of the message key, the ship, is a delete and a create."""
    before, after = _row(done.before, None), _row(done.after, PLACEHOLDER if done.hidden else done.value)
    if done.before is None:
        return [_message(done.after, change("c", after, lsn=lsn))]
    if done.after is None:
        return [_message(done.before, change("d", before=before, lsn=lsn))]
    if done.before.ship != done.after.ship:
        return [
            _message(done.before, change("d", before=before, lsn=lsn)),
            _message(done.after, change("c", after, lsn=lsn)),
        ]
    moved = before if done.before != done.after else None  # REPLICA IDENTITY DEFAULT
    return [_message(done.after, change("u", after, moved, lsn))]


def _row(key: Key | None, value: str | None) -> dict[str, Any] | None:
    if key is None:
        return None
    return sample(
        ship_id=key.ship,
        data_channel_id=key.channel,
        created_time=key.moment_us,
        value_format="String",
        str_v=value,
    )


def _message(key: Key | None, event: dict[str, Any]) -> Message:
    assert key is not None
    body = io.BytesIO()
    fastavro.schemaless_writer(body, SCHEMA, event)
    return Message(SHIPS.index(key.ship), struct.pack(">bI", 0, VALUE_ID) + body.getvalue())
