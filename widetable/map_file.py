"""The channel map as a CSV file: written by `schema plan`, edited by a person, read by `schema apply`.

In: a file. Out: channel lists, and the columns and types that it settles. Guarantee: a file that is read has no
mistake that a file can show; one that has any is refused with all of them, each with its line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from widetable.channel_map import MAX_IDENTIFIER_BYTES, RESERVED, SYSTEMS, ChannelList, column_name
from widetable.errors import ConfigurationError
from widetable.schema_plan import PARTS_STEP
from widetable.values import ColumnType
from widetable.wide_table import SQL_TYPE

SETTLED: Final = ("channel_id", "table_no", "system", "column_name", "column_type")
REQUIRED: Final = ("channel_id", "table_no")
TOLD: Final = ("formats", "typical_bytes", "note")
"""Columns for the person who edits the file; what stands there is not read."""
SHOWN: Final = 20
"""Mistakes that one message names."""

TYPES: Final[Mapping[str, ColumnType]] = {
    **{name: name for name in SQL_TYPE},
    **{sql_type: name for name, sql_type in SQL_TYPE.items()},
}


@dataclass(frozen=True, slots=True)
class MapFile:
    """What a channel map settles.

    Attributes:
        lists: channels by table.
        columns: the column of each channel.
        types: the type of a channel's column, where the file names one.
    """

    lists: tuple[ChannelList, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, ColumnType] = field(default_factory=dict)


def write_map(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a channel map; the file has its name only once it is whole.

    Raises:
        ConfigurationError: the file is there already, or can't be written.
    """
    if path.exists():
        raise ConfigurationError(
            f"{path} is there already: --write does not overwrite it; name another file."
        )
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, (*SETTLED, *TOLD), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: can't write the channel map ({error.strerror}).") from error


def read_map(path: Path) -> MapFile:
    """Read a channel map; a byte order mark, CRLF and empty lines do no harm.

    Raises:
        ConfigurationError: can't be read, or has mistakes: each with file and line.
    """
    reading = _Reading(path)
    reading.read(_text(path))
    if not reading.problems and not reading.channels:
        reading.problems.append(f"{path}:1: names no channel.")
    if reading.problems:
        shown = "".join(f"\n  {problem}" for problem in reading.problems[:SHOWN])
        more = len(reading.problems) - SHOWN
        rest = f"\n  and {more:,} more" if more > 0 else ""
        raise ConfigurationError(f"The channel map has mistakes:{shown}{rest}\nNothing was changed.")
    return reading.result()


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path}: can't read the channel map ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}:{line}: not UTF-8 text: save the channel map as CSV in UTF-8."
        ) from error


class _Reading:
    """Reads line by line, and collects what is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.channels: dict[int, list[str]] = {}  # by table number
        self._line_of: dict[str, int] = {}
        self._name: dict[int, str] = {}
        self._columns: dict[str, str] = {}
        self._types: dict[str, ColumnType] = {}
        self._owner: dict[tuple[int, str], str] = {}

    def result(self) -> MapFile:
        lists = [
            ChannelList(number, self._name.get(number) or SYSTEMS.get(number, f"table_{number}"), tuple(ids))
            for number, ids in sorted(self.channels.items())
        ]
        return MapFile(tuple(lists), self._columns, self._types)

    def read(self, text: str) -> None:
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            if self._accepts(header := [name.strip() for name in next(lines, [])]):
                for fields in lines:
                    if any(fields):
                        self._row(lines.line_num, header, fields)
        except csv.Error as error:
            self._say(
                lines.line_num, f"not CSV ({error}): quote fields that hold commas, quotes or line ends."
            )

    def _say(self, line: int, text: str) -> None:
        self.problems.append(f"{self.path}:{line}: {text}")

    def _accepts(self, header: list[str]) -> bool:
        known = {*SETTLED, *TOLD}
        for name in header:
            if name not in known:
                self._say(1, f"unknown column {name!r}; a channel map has {', '.join((*SETTLED, *TOLD))}.")
        self.problems += [f"{self.path}:1: column {name!r} stands there twice." for name in _twice(header)]
        self.problems += [
            f"{self.path}:1: there is no column {name!r}." for name in REQUIRED if name not in header
        ]
        return not self.problems

    def _row(self, line: int, header: list[str], fields: list[str]) -> None:
        if len(fields) != len(header):
            self._say(line, f"{len(fields)} fields, the first line names {len(header)}.")
            return
        row = dict(zip(header, fields, strict=True))
        channel_id = row["channel_id"]
        problems = [problem for check in CHECKS if (problem := check(row))]
        if channel_id in self._line_of:
            problems.append(f"channel {channel_id!r} stands in line {self._line_of[channel_id]} already.")
        self._line_of.setdefault(channel_id, line)
        if not problems:
            problems = list(self._take(int(row["table_no"]), channel_id, row))
        for problem in problems:
            self._say(line, problem)

    def _take(self, number: int, channel_id: str, row: Mapping[str, str]) -> Iterator[str]:
        """Keep a row that is right by itself; yields how it contradicts earlier ones."""
        column = row.get("column_name") or column_name(channel_id)
        owner = self._owner.setdefault((number, column), channel_id)
        if owner != channel_id:
            yield f"channels {owner!r} and {channel_id!r} would share column {column!r} of table {number}."
        if name := row.get("system", "").strip():
            if self._name.setdefault(number, name) != name:
                yield f"table {number} is called {self._name[number]!r} above, and {name!r} here."
            elif other := next(
                (no for no, known in self._name.items() if known == name and no != number), None
            ):
                yield f"tables {other} and {number} can't both be called {name!r}."
        self.channels.setdefault(number, []).append(channel_id)
        self._columns[channel_id] = column
        if column_type := TYPES.get(row.get("column_type", "").strip()):
            self._types[channel_id] = column_type


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


# -- one row by itself ----------------------------------------------------------------------------------------


def _check_channel(row: Mapping[str, str]) -> str | None:
    if not row["channel_id"].strip():
        return "no channel id."
    return "a NUL character; is this a channel map?" if any("\0" in part for part in row.values()) else None


def _check_table(row: Mapping[str, str]) -> str | None:
    text = row["table_no"].strip()
    if text.isascii() and text.isdigit() and 1 <= int(text) < PARTS_STEP:
        return None
    return f"table_no {row['table_no']!r} is not a number from 1 to {PARTS_STEP - 1}."


def _check_column(row: Mapping[str, str]) -> str | None:
    column = row.get("column_name", "")
    if size := len(column.encode()) * (len(column.encode()) > MAX_IDENTIFIER_BYTES):
        return f"column_name {column!r} has {size} bytes, a column's name {MAX_IDENTIFIER_BYTES} at most."
    if column and column in RESERVED:
        return f"column_name {column!r} is taken by PostgreSQL or by the table's own columns."
    return None


def _check_type(row: Mapping[str, str]) -> str | None:
    text = row.get("column_type", "").strip()
    if not text or text in TYPES:
        return None
    return f"column_type {text!r} is none of {', '.join(SQL_TYPE)}; leave it empty to have it sampled."


CHECKS: Final[tuple[Callable[[Mapping[str, str]], str | None], ...]] = (
    _check_channel,
    _check_table,
    _check_column,
    _check_type,
)
