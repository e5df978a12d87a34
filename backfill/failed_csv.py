"""The file of ranges to copy again: `ship,start,end`, as the predecessor's failed chunks and ours are listed.

In: lines of bytes. Out: ranges, or what is wrong with a line. `start` is inclusive, `end` exclusive; an empty
one is no bound. Guarantee: each line is read by itself and kept as it was, so a file of any size is read in
bounded memory, one bad line costs no other, and what is left can be written back unchanged.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, Final

from backfill.planner import Bounds
from widetable.moments import moment_text, parse_moment

HEADER: Final = ("ship", "start", "end")
HEADER_LINE: Final = (",".join(HEADER) + "\n").encode()
BOM: Final = b"\xef\xbb\xbf"
MAX_LINE_BYTES: Final = 64 * 1024
"""Of a line, so much is held; a longer one is no range."""


@dataclass(frozen=True, slots=True)
class RangeRow:
    """A line that says what to copy again."""

    line_no: int
    ship: str
    bounds: Bounds
    text: bytes


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that can't be understood, or a piece of one that is too long."""

    line_no: int
    reason: str
    text: bytes


def read_ranges(file: IO[bytes], ships: Collection[str]) -> Iterator[RangeRow | BadRow]:
    """The ranges of a file, line by line; header and blank lines are passed over.

    Args:
        file: opened for bytes.
        ships: those that have wide tables.
    """
    line_no, text = 1, file.readline(MAX_LINE_BYTES)
    if not text.strip():
        yield BadRow(1, f"the file is empty, not even the header {','.join(HEADER)} is there", b"")
    text = text.removeprefix(BOM)
    while text:
        if len(text) == MAX_LINE_BYTES and not text.endswith(b"\n"):
            yield from _too_long(file, line_no, text)
        elif text.strip() and not (line_no == 1 and _is_header(text)):
            yield _row(line_no, text, ships)
        line_no, text = line_no + 1, file.readline(MAX_LINE_BYTES)


def range_line(ship: str, bounds: Bounds) -> bytes:
    """A line of the file."""
    edges = ("" if edge is None else moment_text(edge) for edge in (bounds.lower_us, bounds.upper_us))
    quoted = '"' + ship.replace('"', '""') + '"' if set(ship) & set(',"\r\n') else ship
    return (",".join([quoted, *edges]) + "\n").encode()


def _too_long(file: IO[bytes], line_no: int, text: bytes) -> Iterator[BadRow]:
    """The line piece by piece; the first one tells, the others are only kept."""
    reason = f"longer than {MAX_LINE_BYTES:,} bytes: is this the file you meant?"
    while text:
        yield BadRow(line_no, reason, text)
        if text.endswith(b"\n"):
            return
        reason, text = "", file.readline(MAX_LINE_BYTES)


def _is_header(text: bytes) -> bool:
    names = text.decode("utf-8", "replace").strip().lower().split(",")
    return tuple(name.strip().strip('"') for name in names) == HEADER


def _row(line_no: int, text: bytes, ships: Collection[str]) -> RangeRow | BadRow:
    try:
        ship, bounds = _parsed(text, ships)
    except (ValueError, csv.Error) as error:
        return BadRow(line_no, str(error), text)
    return RangeRow(line_no, ship, bounds, text)


def _parsed(text: bytes, ships: Collection[str]) -> tuple[str, Bounds]:
    """Ship and bounds of a line.

    Raises:
        ValueError, csv.Error: with what is wrong.
    """
    try:
        line = text.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error
    (fields,) = csv.reader([line], strict=True)
    if len(fields) != len(HEADER):
        raise ValueError(f"{len(fields)} columns, wanted are {len(HEADER)}: {','.join(HEADER)}")
    ship, *edges = (field.strip() for field in fields)
    if ship not in ships:
        raise ValueError(f"ship {ship!r} has no wide tables; known are {', '.join(sorted(ships))}")
    lower_us, upper_us = (_edge(name, edge) for name, edge in zip(HEADER[1:], edges, strict=True))
    if lower_us is not None and upper_us is not None and lower_us >= upper_us:
        raise ValueError(f"its end {edges[1]} does not lie after its start {edges[0]}")
    return ship, Bounds(lower_us, upper_us)


def _edge(name: str, text: str) -> int | None:
    if not text:
        return None
    try:
        return parse_moment(text)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
