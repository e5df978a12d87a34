"""Dead cells as letters that a person reads: found by filter or number, summed up by reason, shown.

In: the control schema's `dead_cell`. Out: `Letter`s and plain values for text and JSON. Guarantee: nothing is
changed here, and what a stranger wrote reaches a terminal as printable text only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any, Final

from widetable.postgres import Connection
from widetable.statements import load_statements
from widetable.values import DEAD_REASONS

SQL: Final = load_statements(files("cdc_consumer") / "sql" / "dead_letters.sql")
MATCHING: Final = "WITH matching AS (" + SQL["matching"] + ") "

VALUE_REASONS: Final = DEAD_REASONS[1:]
"""The record was read; its value has no place anywhere, whatever the program does."""
RECORD_REASONS: Final = (
    "undecodable",
    "no_image",
    "no_lsn",
    "placeholder",
    "unknown_schema",
    "foreign_schema",
    "other_table",
    "flattened",
    "transaction_marker",
    "null_key",
    "bad_key",
    "tombstone",
    "json",
    "avro",
    "not_flattened",
    "not_avro",
    "apicurio_frame",
)
"""The record itself was not understood; its bytes are kept."""

SHOWN_BYTES: Final = 4096
"""Of a key or value; `export` writes all of it."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which letters; None asks for nothing."""

    reason: str | None = None
    partition: int | None = None
    ship_id: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead cell or record; from history it has neither coordinates in Kafka nor raw bytes of a record."""

    number: int
    added_at: datetime
    reason: str
    detail: str
    topic: str | None
    topic_id: str | None
    partition: int | None
    offset: int | None
    ship_id: str | None
    channel_id: str | None
    created_time: str | None
    headers: dict[str, str]
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many letters have a reason, and when the first and the last of them came."""

    reason: str
    count: int
    first_at: datetime
    last_at: datetime


# -- reading ------------------------------------------------------------------------------------------------


def summary(conn: Connection, pipeline: str, filters: Filters) -> list[ReasonCount]:
    """The letters by reason, the most frequent first."""
    rows = conn.execute(MATCHING + SQL["summary"], _values(pipeline, filters))
    return [ReasonCount(*row) for row in rows]


def latest(conn: Connection, pipeline: str, filters: Filters, limit: int) -> list[Letter]:
    """The youngest letters, without their bytes."""
    rows = conn.execute(MATCHING + SQL["latest"], _values(pipeline, filters) | {"limit": limit})
    return [Letter(*row) for row in rows]


def every(conn: Connection, pipeline: str, filters: Filters) -> Iterator[Letter]:
    """All letters, oldest first, through a server-side cursor: memory holds a few at a time."""
    with conn.transaction(), conn.cursor(name="letters") as cursor:
        cursor.itersize = 500
        cursor.execute(MATCHING + SQL["letters"], _values(pipeline, filters))
        yield from (Letter(*row) for row in cursor)


def numbers(conn: Connection, pipeline: str, filters: Filters) -> list[int]:
    """The numbers of all letters, ascending."""
    return [number for (number,) in conn.execute(MATCHING + SQL["numbers"], _values(pipeline, filters))]


def numbered(conn: Connection, pipeline: str, wanted: Sequence[int]) -> list[Letter]:
    """The letters with these numbers, as far as they are there, ascending."""
    rows = conn.execute(SQL["numbered"], {"pipeline": pipeline, "numbers": list(wanted)})
    return [Letter(*row) for row in rows]


def _values(pipeline: str, filters: Filters) -> dict[str, Any]:
    return {"pipeline": pipeline, **asdict(filters)}


# -- showing ------------------------------------------------------------------------------------------------


def list_lines(reasons: Sequence[ReasonCount], letters: Sequence[Letter]) -> Iterator[str]:
    """A summary by reason, then a line per letter."""
    total = sum(reason.count for reason in reasons)
    if not total:
        yield "no dead cells"
        return
    yield f"{'reason':<20} {'count':>9}  {'first':<19}  last"
    for reason in reasons:
        yield f"{reason.reason:<20} {reason.count:>9,}  {_when(reason.first_at)}  {_when(reason.last_at)}"
    if letters:
        yield ""
        yield f"{'number':>8}  {'when (UTC)':<19}  {'reason':<18}  where, and what"
    for letter in letters:
        head = f"{letter.number:>8}  {_when(letter.added_at)}  {letter.reason:<18}"
        yield f"{head}  {printable(where(letter))}: {printable(letter.detail)}"
    if len(letters) < total:
        yield f"the latest {len(letters):,} of {total:,} are shown: --limit, or export them"


def letter_lines(letter: Letter) -> Iterator[str]:
    """All that is known of a letter."""
    facts = {
        "number": letter.number,
        "when": f"{_when(letter.added_at)} UTC",
        "reason": letter.reason,
        "where": where(letter),
        "detail": letter.detail,
        **letter.headers,
    }
    for name, fact in facts.items():
        yield f"{name}: {printable(str(fact))}"
    for name, content in (("key", letter.key), ("value", letter.value)):
        yield f"{name}: {'none' if content is None else f'{len(content):,} bytes'}"
        if content:
            yield from _dump(content)


def letter_json(letter: Letter, *, content: bool = True) -> dict[str, Any]:
    """A letter as plain values; its bytes as hex and as text."""
    facts = asdict(letter) | {"added_at": letter.added_at.isoformat()}
    for name in ("key", "value"):
        raw = facts.pop(name)
        if content:
            facts |= {f"{name}_hex": None, f"{name}_text": None}
            if raw is not None:
                facts |= {f"{name}_hex": raw.hex(), f"{name}_text": raw.decode("utf-8", "replace")}
    return facts


def reason_json(reason: ReasonCount) -> dict[str, Any]:
    """A line of the summary as plain values."""
    return asdict(reason) | {
        "first_at": reason.first_at.isoformat(),
        "last_at": reason.last_at.isoformat(),
    }


def where(letter: Letter) -> str:
    """The coordinates in Kafka, and those of the cell, as far as they are known."""
    stream = f"partition {letter.partition} offset {letter.offset}" if letter.topic_id else "history"
    cell = (letter.ship_id, letter.created_time, letter.channel_id)
    return " ".join([stream, *(part for part in cell if part)])


def printable(text: str) -> str:
    """`text` without what could steer a terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def _dump(content: bytes) -> Iterator[str]:
    part = content[:SHOWN_BYTES]
    yield f"  hex:  {part.hex(' ')}"
    yield f"  text: {printable(part.decode('utf-8', 'replace'))}"
    if len(part) < len(content):
        yield f"  the first {len(part):,} bytes; `cdc-consumer dead-letters export` writes them all"


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
