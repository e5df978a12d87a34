"""Lives of cells: every order of a slice's read and write and of live changes that one cell can meet.

In: ships, channels, a first moment. Out: for each stage of the slice, the statements that change the source then.
Each life is led twice: in a wide row that many cells share, and in a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations_with_replacement, count
from typing import Any, Final

STAGES: Final = ("before the read", "between read and write", "in mid-write", "after the write")

# i: insert, u: update, d: delete. Those from history begin with a sample that only the slice can bring.
FROM_HISTORY: Final = ("", "u", "d", "ud", "di", "udi", "did", "diu")
FROM_NOTHING: Final = ("i", "iu", "id", "idi", "iud")

KEY: Final = "ship_id = %(ship)s AND data_channel_id = %(channel)s AND created_time = %(at)s"
CHANGES: Final = {
    "i": "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, server_created_time,"
    " value_format, double_v) VALUES (%(ship)s, %(channel)s, %(at)s, now(), 'Decimal', %(value)s)",
    "u": f"UPDATE tenant.tbl_data_timeseries SET double_v = %(value)s WHERE {KEY}",
    "d": f"DELETE FROM tenant.tbl_data_timeseries WHERE {KEY}",
}
SHARED_ROWS: Final = 3

Statement = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Life:
    """What happens to one cell, and at which stages.

    Attributes:
        changes: letters of `CHANGES`, in order.
        stages: of each change, an index into `STAGES`; never falling.
        born: history holds a first sample.
    """

    ship: str
    channel: str
    at: datetime
    changes: str
    stages: tuple[int, ...]
    born: bool


def all_lives(ships: Sequence[str], channels: Sequence[str], start: datetime) -> list[Life]:
    """Every life at every choice of stages, each in a shared row and in one of its own."""
    lives = []
    for number, (changes, stages, born) in enumerate(_courses()):
        ship, channel = ships[number % len(ships)], channels[number]
        shared = start + timedelta(seconds=number % SHARED_ROWS)
        own = start + timedelta(minutes=1, seconds=number)
        lives += [Life(ship, channel, at, changes, stages, born) for at in (shared, own)]
    return lives


def _courses() -> Iterator[tuple[str, tuple[int, ...], bool]]:
    for born, courses in ((True, FROM_HISTORY), (False, FROM_NOTHING)):
        for changes in courses:
            for stages in combinations_with_replacement(range(len(STAGES)), len(changes)):
                yield changes, stages, born


def births(lives: Sequence[Life]) -> Iterator[Statement]:
    """The samples of history."""
    for life in lives:
        if life.born:
            yield _statement("i", life, 0.5)


def changes_at(lives: Sequence[Life], stage: int) -> Iterator[Statement]:
    """What happens at one stage, in the order of each life."""
    for life in lives:
        for value, change, at_stage in zip(count(1), life.changes, life.stages, strict=False):
            if at_stage == stage:
                yield _statement(change, life, value)


def _statement(change: str, life: Life, value: float) -> Statement:
    return CHANGES[change], {"ship": life.ship, "channel": life.channel, "at": life.at, "value": value}
