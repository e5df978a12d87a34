"""Corrections of a file -> wide tables, as versioned cells.

In: a file and a ship map. Out: a tally. Guarantees: a correction overwrites what the target holds, and stands
until the source changes the cell again: it is versioned (epoch, end of the source's WAL, "k"), read once per
file. A file that is imported again keeps the version of its first import, so that neither an interruption nor a
repetition undoes anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from backfill.brake import LoneBrake
from backfill.correction_file import Channel, Chunk, CorrectionFile, Header
from backfill.correction_values import NAMES, as_stored
from backfill.settings import Settings
from backfill.writing import PatientWriter, apply_batch, in_layout
from widetable.apply import Applied, Origin, Writer
from widetable.barrier import source_identity, take_barrier
from widetable.cells import read_events
from widetable.errors import ConfigurationError, StoppedError
from widetable.hand_off import read_hand_off
from widetable.lsn import parse_lsn
from widetable.narrow import FORMATS, NARROW_SCHEMA, VALUE_COLUMNS, Op, history_columns
from widetable.postgres import Connection, connect_source, fetch_one
from widetable.statements import load_statements
from widetable.values import ColumnType

SQL: Final = load_statements(files("backfill") / "sql" / "corrections.sql")
FORMAT_OF: Final[dict[ColumnType, str]] = dict(zip(("float8", "int8", "text", "bool"), FORMATS, strict=True))
COLUMN_OF: Final[dict[ColumnType, str]] = dict(
    zip(("float8", "int8", "text", "bool"), VALUE_COLUMNS, strict=True)
)
"""Which value column of a sample has a value of that type."""


@dataclass(slots=True)
class FileTally:
    """What became of a file; cells are those with a value."""

    path: Path
    header: Header | None = None
    rows: int = 0
    cells: int = 0
    bad_rows: int = 0
    bad_cells: int = 0
    repeated: int = 0  # cells that stand in the file twice: the first one counts
    refused: str | None = None  # why nothing of it could be imported
    before: bool = False  # the same content was imported before
    applied: Applied = field(default_factory=Applied)

    @property
    def whole(self) -> bool:
        """Whether all of the file is in the target."""
        unmapped = self.header.unmapped if self.header else ()
        return not (self.refused or self.bad_rows or self.bad_cells or unmapped)


@dataclass(frozen=True, slots=True)
class Version:
    """What the cells of a file record."""

    epoch: int
    lsn: int


class Corrections:
    """Imports files, one after the other, over one session.

    Args:
        settings: where both databases are.
        brake: slows it down between two chunks.
        again: whether a file that was imported before counts as a new correction.
        dry_run: look at everything, write nothing.
        tell: takes a line about what can't be imported.
        progress: called after each chunk.
    """

    def __init__(
        self,
        settings: Settings,
        brake: LoneBrake,
        *,
        again: bool,
        dry_run: bool,
        tell: Callable[[str], None],
        progress: Callable[[FileTally], None],
    ) -> None:
        self._settings, self._brake, self._again, self._dry_run = settings, brake, again, dry_run
        self._tell, self._progress = tell, progress
        self._writer = PatientWriter(settings, "import")

    def close(self) -> None:
        """End the sessions."""
        self._brake.close()
        self._writer.close()

    def add(self, file: CorrectionFile, tally: FileTally, ship: str | None) -> None:
        """Import a file whose header is good; `tally` counts along."""
        header = tally.header
        if header is None:
            raise ValueError(f"no header of {tally.path}")
        key = {
            "pipeline": self._settings.pipeline.name,
            "digest": _digest(tally.path),
            "ship_id": ship or "",
        }
        tally.before = (
            self._writer.run(lambda conn, _: conn.execute(SQL["known"], key).fetchone()) is not None
        )
        version = None if self._dry_run else self._begin(key, tally.path)
        for chunk in file.chunks(header):
            batch = self._batch(chunk, version or Version(1, 1), tally)
            if version is not None:
                self._brake.wait()
                tally.applied += self._writer.run(partial(self._write, batch))
                self._brake.rest(batch.num_rows, self._writer.worked_s)
            tally.rows = file.rows
            self._progress(tally)
        tally.rows = file.rows
        if version is not None:
            values = key | {"cells": tally.cells}
            self._writer.run(lambda conn, _: conn.execute(SQL["finish"], values))

    def _begin(self, key: dict[str, str], path: Path) -> Version:
        """The file's version: that of its first import, or a new one."""

        def record(conn: Connection, _writer: Writer) -> Version:
            version = self._new_version(conn)
            more = {"name": path.name, "epoch": version.epoch, "lsn": version.lsn, "again": self._again}
            row = conn.execute(SQL["begin"], key | more).fetchone()
            return Version(*row) if row else version

        return self._writer.run(record)

    def _new_version(self, conn: Connection) -> Version:
        hand_off = read_hand_off(conn, self._settings.pipeline.name)
        with closing(connect_source(self._settings.source, "backfill import")) as source:
            if hand_off and source_identity(source).system_identifier != hand_off.system_identifier:
                raise StoppedError(
                    "The source is another cluster than the one that the stream comes from, so its WAL says"
                    " nothing about which is newer, correction or change: check CDC_SOURCE__DSN."
                )
            return Version(hand_off.epoch if hand_off else 1, source_lsn(source))

    def _write(self, batch: pa.RecordBatch, conn: Connection, writer: Writer) -> Applied:
        origin = Origin(self._settings.pipeline.name)
        return in_layout(conn, writer, lambda: apply_batch(writer, batch, origin), "a file of corrections")

    def _batch(self, chunk: Chunk, version: Version, tally: FileTally) -> pa.RecordBatch:
        """The cells that fit their columns; the others are told of."""
        value, fit = self._values(chunk)
        for index in np.flatnonzero(~fit).tolist():
            channel, text = chunk.channels[index], chunk.texts[index]
            self._tell(
                f"{tally.path}:{chunk.lines[index]}: {channel.channel_id}: {text!r} is not"
                f" {NAMES[channel.column_type]}: this cell is left out"
            )
        batch = correction_batch(chunk, value, version).filter(pa.array(fit))
        first = first_of_each_cell(batch)
        tally.bad_cells += int(np.count_nonzero(~fit))
        tally.repeated += batch.num_rows - len(first)
        tally.cells += len(first)
        return batch.take(pa.array(first))

    def _values(self, chunk: Chunk) -> tuple[list[str | None], np.ndarray[Any, np.dtype[np.bool_]]]:
        """Each cell's text as its column would give it back, and whether it fits."""
        types = np.array([channel.column_type for channel in chunk.channels])
        value: list[str | None] = [None] * len(chunk)
        fit = np.zeros(len(chunk), bool)
        for column_type in np.unique(types).tolist():
            chosen = np.flatnonzero(types == column_type)
            texts, fit[chosen] = as_stored([chunk.texts[index] for index in chosen.tolist()], column_type)
            for index, text in zip(chosen.tolist(), texts.to_pylist(), strict=True):
                value[index] = text
        return value, fit


def correction_batch(chunk: Chunk, value: list[str | None], version: Version) -> pa.RecordBatch:
    """A `NarrowBatch` of corrections, one row per cell of the chunk."""
    types = np.array([channel.column_type for channel in chunk.channels])
    text, nothing = pa.array(value, pa.string()), pa.scalar(None, pa.string())
    values = {
        column: pc.if_else(pa.array(types == column_type), text, nothing)
        for column_type, column in COLUMN_OF.items()
    }
    size = len(chunk)
    columns = {
        **history_columns(size),
        **values,
        "ship_id": pa.array(chunk.ships, pa.string()),
        "channel_id": pa.array([channel.channel_id for channel in chunk.channels], pa.string()),
        "created_time": pa.array(chunk.moments, pa.int64()),
        "value_format": pa.array([FORMAT_OF[channel.column_type] for channel in chunk.channels], pa.string()),
        "op": pa.array(np.full(size, Op.CORRECTION, np.int8)),
        "epoch": pa.array(np.full(size, version.epoch, np.int32)),
        "lsn": pa.array(np.full(size, version.lsn, np.int64)),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in NARROW_SCHEMA.names], schema=NARROW_SCHEMA)


def first_of_each_cell(batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each cell of a batch stands first, ascending."""
    events = read_events(batch, batch.column("str_v"))
    key = events.row * max(len(events.channels), 1) + events.channel
    return np.sort(np.unique(key, return_index=True)[1])


def source_lsn(source: Connection) -> int:
    """A position that all changes made by now lie before, all later ones behind, and no earlier call returned.

    A transaction id is committed first: it moves the WAL on where nothing else does. One byte before the end,
    for the next change begins exactly there.

    Raises:
        ConfigurationError: the source is a standby.
    """
    try:
        take_barrier(source)
        return parse_lsn(fetch_one(source, "SELECT pg_current_wal_insert_lsn()::text")[0]) - 1
    except (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.ObjectNotInPrerequisiteState) as error:
        raise ConfigurationError(
            "The source is a standby: a correction is dated by the primary's WAL, let CDC_SOURCE__DSN name it."
        ) from error


def read_channels(conn: Connection) -> dict[str, Channel]:
    """The target's channels by what a header may call them: the id, or a column's name that only one has."""
    rows = conn.execute(SQL["channels"]).fetchall()
    names = [column for _, column, _, _ in rows]
    found = {
        name: Channel(channel, kind, system) for channel, name, kind, system in rows if names.count(name) == 1
    }
    return found | {channel: Channel(channel, kind, system) for channel, _, kind, system in rows}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def csv_files(path: Path) -> Iterator[Path]:
    """The file itself, or the CSV files of a folder by name.

    Raises:
        ConfigurationError: the folder has none.
    """
    if path.is_file():
        yield path
        return
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv" and file.is_file())
    if not found:
        raise ConfigurationError(
            f"{path} has no CSV files: name the folder, or the file, with the corrections."
        )
    yield from found
