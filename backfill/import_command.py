"""`backfill import`: the command around `backfill.corrections`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import click

from backfill import plans
from backfill.brake import LoneBrake
from backfill.correction_file import Channel, CorrectionFile, HeaderError, ship_of_name
from backfill.corrections import Corrections, FileTally, csv_files, read_channels
from backfill.scope import choose_ships
from backfill.settings import Settings
from widetable import environment, logs
from widetable.control import check_control
from widetable.errors import PartialError
from widetable.hand_off import streaming_hand_off
from widetable.postgres import connect_target

PROGRESS_S: Final = 5.0


@click.command("import")
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="DIR|FILE")
@click.option("--ship-id", metavar="SHIP", help="Whose rows these are, for files that don't say it.")
@click.option("--dry-run", is_flag=True, help="Look at every row and value, but write nothing.")
@click.option(
    "--ignore-column",
    "ignored",
    multiple=True,
    metavar="NAME",
    help="A header that is no channel; may be repeated.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Take a file that was imported before for a new correction, newer than all others.",
)
@click.option(
    "--rate-limit", "cells_per_s", type=click.FloatRange(min=0, min_open=True), help="Cells per second."
)
def import_(
    *,
    path: Path,
    ship_id: str | None,
    dry_run: bool,
    ignored: tuple[str, ...],
    again: bool,
    cells_per_s: float | None,
) -> None:
    """Overwrite cells with the corrections of a CSV file, or of all CSV files of a folder.

    A file has a header with `created_time`, the ids of channels, and perhaps `ship_id`; without it the rows are
    those of --ship-id, or of the ship that the file is named after. Empty fields are no cells. A correction stays
    until the source changes the cell again; `backfill verify` counts it as corrected.

    Exits 0 when all is imported, 5 when rows, values or headers were left out: each is named.
    """
    settings = environment.load(Settings)
    logs.configure(settings.log)
    with closing(connect_target(settings.target, "backfill import")) as conn:
        check_control(conn, settings.target.control_schema)
        channels, ships = read_channels(conn), plans.live_ships(conn)
        hand_off = streaming_hand_off(conn, settings.pipeline.name)
    choose_ships([ship_id] if ship_id else [], ships)
    tallies = []
    brake = LoneBrake(settings, hand_off.slot if hand_off else None, cells_per_s, _tell)
    corrections = Corrections(settings, brake, again=again, dry_run=dry_run, tell=_tell, progress=_progress())
    with closing(corrections):
        for file in csv_files(path):
            tallies.append(_import(corrections, file, ship_id, channels, ships, ignored))
            click.echo("\n".join(_lines(tallies[-1], channels, dry_run)))
    left = [tally for tally in tallies if not tally.whole]
    if left:
        raise PartialError(
            f"{len(left)} of {len(tallies)} files were not imported as a whole; what is missing is named above."
        )


def _import(
    corrections: Corrections,
    path: Path,
    ship: str | None,
    channels: dict[str, Channel],
    ships: tuple[str, ...],
    ignored: tuple[str, ...],
) -> FileTally:
    tally = FileTally(path)

    def refuse(line: int, reason: str) -> None:
        tally.bad_rows += 1
        _tell(f"{path}:{line}: {reason}: this row is left out")

    named_after = ship_of_name(path, ships)
    file = CorrectionFile(path, channels, ships, ship, named_after, ignored, refuse)
    try:
        tally.header = file.header()
    except HeaderError as error:
        tally.refused = str(error)
        _tell(f"{path}:1: {error}: this file is left out")
        return tally
    by_column = tally.header.ship is not None
    # A file with the column is one import for all its ships, but one for each that was asked for by name.
    corrections.add(file, tally, ship or (None if by_column else named_after))
    return tally


def _lines(tally: FileTally, channels: dict[str, Channel], dry_run: bool) -> Iterator[str]:
    """What became of a file, for a person."""
    if tally.header is None:
        yield f"{tally.path}: not imported"
        return
    what = "would be imported" if dry_run else "imported"
    yield f"{tally.path}: {tally.rows:,} rows, {tally.cells:,} cells {what}"
    if not dry_run:
        applied = tally.applied
        counts = {
            "in place": applied.applied,
            "in overflow": applied.overflow,
            "older than what is there": applied.superseded,
        }
        yield "  " + ", ".join(
            f"{count:,} {name}" for name, count in counts.items() if count or name == "in place"
        )
    if tally.before:
        yield "  imported before: cells that were changed since are left alone (--again overrules)"
    if tally.repeated:
        yield f"  {tally.repeated:,} cells stand there twice: the first one counts"
    if tally.bad_rows or tally.bad_cells:
        yield f"  left out: {tally.bad_rows:,} rows, {tally.bad_cells:,} cells"
    for system, (have, every) in tally.header.coverage(set(channels.values())).items():
        yield f"  {system}: {have:,} of {every:,} channels"
    if tally.header.unmapped:
        yield f"  no channels: {', '.join(tally.header.unmapped)}"


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _progress() -> Callable[[FileTally], None]:
    """A line on stderr every few seconds."""
    last = time.monotonic()

    def progress(tally: FileTally) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_S:
            last = time.monotonic()
            _tell(f"{tally.path}: {tally.rows:,} rows, {tally.cells:,} cells")

    return progress
