"""`backfill export`: the command around `widetable.export`.

In: settings and flags. Out: a file that is whole or not there, and a line about it on stdout.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Final, cast

import click

from backfill.settings import Settings
from backfill.whole_file import whole_file
from widetable import environment, logs
from widetable.control import check_control
from widetable.export import Export, ExportRequest, Format, listed_channels, open_export
from widetable.moment_type import MomentType
from widetable.postgres import connect_target

PROGRESS_S: Final = 5.0


@click.command("export")
@click.option("--ship-id", required=True, metavar="SHIP", help="The ship.")
@click.option(
    "--from", "from_us", type=MomentType(), required=True, help="First created_time (no time zone)."
)
@click.option("--to", "until_us", type=MomentType(), required=True, help="Only moments before this one.")
@click.option(
    "--channels",
    multiple=True,
    metavar="CHANNEL",
    help="Only these channels, in this order; separated by commas, or the option several times. Default: all.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="The file's format.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The file; it appears when it is whole.",
)
def export(
    *,
    ship_id: str,
    from_us: int,
    until_us: int,
    channels: tuple[str, ...],
    file_format: str,
    output: Path,
) -> None:
    """Write the wide rows of one ship and period to a file, its tables merged.

    One row per moment and one column per channel. A CSV file is what `backfill import` reads. Rows are streamed:
    a year takes no more memory than a day.
    """
    chosen = listed_channels(channels)
    request = ExportRequest(ship_id, from_us, until_us, chosen, cast("Format", file_format))
    settings = environment.load(Settings)
    logs.configure(settings.log)
    with closing(connect_target(settings.target, "backfill export")) as conn:
        check_control(conn, settings.target.control_schema)
        found = open_export(conn, request)
        if found.overflow:
            click.echo(
                f"Warning: {found.overflow:,} cells of this period wait in overflow and are not in the file.",
                err=True,
            )
        size = _write(found, output)
    click.echo(f"{found.rows_read:,} rows of {len(found.columns):,} channels, {size:,} bytes: {output}")


def _write(found: Export, output: Path) -> int:
    """Stream to the file, with a line on stderr every few seconds; returns the bytes written."""
    size, last = 0, time.monotonic()
    with whole_file(output) as file:
        for chunk in found.chunks():
            size += file.write(chunk)
            if time.monotonic() - last >= PROGRESS_S:
                last = time.monotonic()
                click.echo(f"{found.rows_read:,} of about {found.rows:,} rows, {size:,} bytes", err=True)
    return size
