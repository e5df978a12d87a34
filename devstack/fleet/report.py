"""What the fleet did, counted; each report becomes one line of JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

Count = Literal[
    "inserts",  # samples written when they were due
    "updates",  # corrections: another value for a cell
    "deletes",
    "reinserts",  # a deleted cell, written again
    "late",  # a sample of an older moment that had none
    "key_changes",  # UPDATEs of ship, channel or moment
    "unknown_channel",  # samples of channels that are in no list
    "unknown_ship",  # samples of a ship that is in no plan
    "null_updates",  # corrections that take the value away
]


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """What `write_history` wrote.

    Attributes:
        rows: rows copied and committed.
        first_moment: oldest `created_time` that may have been written (naive UTC).
        until: upper bound of the moments, exclusive (naive UTC).
        seconds: time from the first sample to the commit.
        rows_per_second: rows / seconds.
    """

    rows: int
    first_moment: datetime
    until: datetime
    seconds: float
    rows_per_second: float

    def to_json(self) -> str:
        """One line of JSON."""
        return _to_json(dataclasses.asdict(self))


@dataclass(frozen=True, slots=True)
class Tally:
    """Rows that PostgreSQL said it changed, by the kind of change.

    Attributes:
        counts: rows per kind; a row counts once.
        duplicates: rows that ON CONFLICT DO NOTHING swallowed; they leave no trace.
        events: changes in the WAL as Debezium reports them: a key change to another ship is two, a delete
            and an insert, for the ship is the message key.
    """

    counts: Mapping[Count, int] = field(default_factory=dict)
    duplicates: int = 0
    events: int = 0

    def __add__(self, other: Tally) -> Tally:
        counts = {kind: self.counts.get(kind, 0) + other.counts.get(kind, 0) for kind in get_args(Count)}
        return Tally(counts, self.duplicates + other.duplicates, self.events + other.events)


@dataclass(frozen=True, slots=True)
class LiveReport:
    """What a live load did, committed transactions only. The kinds don't overlap.

    Attributes:
        events: see `Tally.events`; duplicates are none.
        bursts: ship minutes written.
        started_at: when the load began (UTC).
        ended_at: when it ended, or when this report was made (UTC).
    """

    inserts: int
    updates: int
    deletes: int
    reinserts: int
    late: int
    duplicates: int
    key_changes: int
    unknown_channel: int
    unknown_ship: int
    null_updates: int
    events: int
    bursts: int
    started_at: datetime
    ended_at: datetime

    @property
    def rows_added(self) -> int:
        """By how many rows the narrow table grew."""
        strangers = self.unknown_channel + self.unknown_ship
        return self.inserts + self.late + self.reinserts + strangers - self.deletes

    @classmethod
    def of(cls, tally: Tally, bursts: int, started_at: datetime, ended_at: datetime) -> LiveReport:
        """The report of a tally."""
        counts = {kind: tally.counts.get(kind, 0) for kind in get_args(Count)}
        return cls(
            **counts,
            duplicates=tally.duplicates,
            events=tally.events,
            bursts=bursts,
            started_at=started_at,
            ended_at=ended_at,
        )

    def to_json(self) -> str:
        """One line of JSON."""
        return _to_json(dataclasses.asdict(self))


def _to_json(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, default=lambda value: value.isoformat())
