"""A CSV file of corrections -> chunks of cells, and what is wrong with its rows.

In: a file with a header: `created_time`, channels, and perhaps `ship_id`. Out: `Chunk`s of bounded size.
Guarantees: headers are matched to channels exactly, never guessed; an empty field is no cell; a bad row or value
is named by file, line and column and costs nothing else.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from widetable.moments import parse_moment
from widetable.values import ColumnType

MOMENT: Final = "created_time"
SHIP: Final = "ship_id"
CHUNK_CELLS: Final = 50_000
"""As many as a batch of the stream: a transaction of a fraction of a second."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of the target, and the system (table) that it belongs to."""

    channel_id: str
    column_type: ColumnType
    system: str


@dataclass(frozen=True, slots=True)
class Header:
    """What the columns of a file are: their positions, and those that are nothing we know."""

    width: int
    moment: int
    ship: int | None
    channels: Mapping[int, Channel]
    unmapped: tuple[str, ...]

    def coverage(self, known: Collection[Channel]) -> dict[str, tuple[int, int]]:
        """Of each table, how many of its channels the file has, and how many there are."""
        have = [channel.system for channel in self.channels.values()]
        every = [channel.system for channel in known]
        return {name: (have.count(name), every.count(name)) for name in dict.fromkeys(every)}


@dataclass(slots=True)
class Chunk:
    """Cells of some rows; lists of equal length, one entry per cell."""

    ships: list[str] = field(default_factory=list)
    moments: list[int] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.texts)


class HeaderError(ValueError):
    """The file can't be imported, whatever its rows are."""


class CorrectionFile:
    """A file that is read once.

    Args:
        path: the file.
        channels: those of the target, by each name that a header may have.
        ships: those that have wide tables.
        ship: whose rows these must be; None where the file says it.
        named_after: whose rows these are where neither `ship` nor a column says it.
        ignored: headers that are known to be no channels.
        refuse: told of each bad row: line number and reason.
    """

    def __init__(
        self,
        path: Path,
        channels: Mapping[str, Channel],
        ships: Collection[str],
        ship: str | None,
        named_after: str | None,
        ignored: Collection[str],
        refuse: Callable[[int, str], None],
    ) -> None:
        self._path, self._channels, self._ships = path, channels, ships
        self._ship, self._fallback = ship, ship or named_after
        self._ignored, self._refuse = ignored, refuse
        self.rows = 0

    def header(self) -> Header:
        """What the columns are.

        Raises:
            HeaderError: no created_time, no ship, no channel, or one that stands twice.
        """
        with self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            try:
                names = next(csv.reader(file, strict=True), None)
            except csv.Error as error:
                raise HeaderError(f"no header of a CSV file: {error}") from error
        if not names:
            raise HeaderError("the file is empty, not even a header is there")
        return self._header([name.strip() for name in names])

    def chunks(self, header: Header) -> Iterator[Chunk]:
        """The cells of all good rows."""
        chunk = Chunk()
        with self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            for line, row in self._read(reader):
                self._add(chunk, header, line, row)
                if len(chunk) >= CHUNK_CELLS:
                    yield chunk
                    chunk = Chunk()
        if len(chunk):
            yield chunk

    def _read(self, reader: "csv.Reader") -> Iterator[tuple[int, list[str]]]:  # type: ignore[name-defined]  # noqa: UP037
        """Rows with the line that they begin in; the header is passed over."""
        first = 1
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._refuse(first, str(error))
            else:
                if row and first > 1:
                    self.rows += 1
                    yield first, row
            first = reader.line_num + 1

    def _header(self, names: Sequence[str]) -> Header:
        fixed = {name: names.index(name) for name in (MOMENT, SHIP) if name in names}
        channels = {index: self._channels[name] for index, name in enumerate(names) if name in self._channels}
        known = {*fixed, *self._ignored}
        unmapped = [name for index, name in enumerate(names) if index not in channels and name not in known]
        if MOMENT not in fixed:
            raise HeaderError(f"no column {MOMENT}")
        if SHIP not in fixed and self._fallback is None:
            raise HeaderError(
                f"whose rows are these? Give it a column {SHIP}, name the file after the ship, or say --ship-id"
            )
        ids = [channel.channel_id for channel in channels.values()]
        if twice := sorted({channel for channel in ids if ids.count(channel) > 1}):
            raise HeaderError(f"channel {', '.join(twice)} has two columns")
        if not channels:
            raise HeaderError(f"none of its columns is a channel: {', '.join(unmapped)}")
        return Header(len(names), fixed[MOMENT], fixed.get(SHIP), channels, tuple(unmapped))

    def _add(self, chunk: Chunk, header: Header, line: int, row: Sequence[str]) -> None:
        try:
            ship, moment = self._key(header, row)
        except ValueError as error:
            self._refuse(line, str(error))
            return
        for index, channel in header.channels.items():
            if text := row[index]:
                chunk.ships.append(ship)
                chunk.moments.append(moment)
                chunk.channels.append(channel)
                chunk.texts.append(text)
                chunk.lines.append(line)

    def _key(self, header: Header, row: Sequence[str]) -> tuple[str, int]:
        """Ship and moment of a row.

        Raises:
            ValueError: with what is wrong.
        """
        if len(row) != header.width:
            raise ValueError(f"{len(row)} columns, the header has {header.width}")
        ship = self._fallback if header.ship is None else row[header.ship].strip()
        if ship is None or ship not in self._ships:
            raise ValueError(f"ship {ship!r} has no wide tables; known are {', '.join(sorted(self._ships))}")
        if self._ship is not None and ship != self._ship:
            raise ValueError(f"ship {ship!r} is not the one that was asked for, {self._ship}")
        text = row[header.moment].strip()
        try:
            return ship, parse_moment(text)
        except ValueError as error:
            raise ValueError(f"{MOMENT} {error}") from error


def ship_of_name(path: Path, ships: Collection[str]) -> str | None:
    """The ship that a file is named after: `IMO9976903.csv`, `imo9976903_2025-01.csv`; the longest."""
    stem = path.stem.lower()
    fitting = [
        ship
        for ship in ships
        if stem.startswith(ship.lower()) and not stem[len(ship) : len(ship) + 1].isalnum()
    ]
    return max(fitting, key=len, default=None)
