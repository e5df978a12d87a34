"""`backfill retry`: the command around `backfill.retry`."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

import click

from backfill.failed_csv import HEADER_LINE
from backfill.grace import within_grace
from backfill.retry import Retry, RetryRequest, Tally
from backfill.runner import listening
from backfill.settings import Settings
from backfill.whole_file import whole_file
from widetable import environment, logs
from widetable.errors import PartialError


@click.command("retry")
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="[FILE.csv]"
)
@click.option("--dry-run", is_flag=True, help="Connect and count the rows of each range, but write nothing.")
@click.option("--ship-id", "ships", multiple=True, metavar="SHIP", help="Only this ship; may be repeated.")
@click.option(
    "-d", "--delay", "delay_s", type=click.FloatRange(min=0), default=0.0, help="Seconds between two ranges."
)
@click.option(
    "--rate-limit", "rows_per_s", type=click.FloatRange(min=0, min_open=True), help="Rows per second."
)
@click.option(
    "--still-failed",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the ranges that are left; default: FILE.still-failed.csv, and nowhere without FILE.",
)
@click.option("--no-handoff", is_flag=True, help="For a copy without a change stream, as with `run`.")
def retry(
    *,
    file: Path | None,
    dry_run: bool,
    ships: tuple[str, ...],
    delay_s: float,
    rows_per_s: float | None,
    still_failed: Path | None,
    no_handoff: bool,
) -> None:
    """Copy failed ranges again: those of a CSV file, or without one the failed slices of the ledger.

    The file has a line `ship,start,end` for each range (no time zone; start inclusive, end exclusive, empty is
    no bound), as `backfill status --failed --csv` writes it. Copying a range twice is harmless.

    Exits 0 when all ranges are copied, 5 when some are left: they are in the still-failed file. Exits 4 without
    that file when a signal came and what was under way did not end in time: give the same FILE again.
    """
    settings = environment.load(Settings)
    logs.configure(settings.log)
    request = RetryRequest(file, ships, delay_s, rows_per_s, dry_run=dry_run, no_handoff=no_handoff)
    if still_failed is None and file is not None:
        still_failed = file.with_name(f"{file.stem}.still-failed.csv")
    leftover = Leftover(None if dry_run else still_failed)
    with (
        within_grace(settings.backfill.shutdown_s, leftover.discard),
        listening() as wish,
        closing(leftover),
    ):
        job = Retry(settings, request, wish, lambda line: click.echo(line, err=True), leftover.write)
        tally = job.run()
    click.echo(_summary(tally, dry_run=dry_run))
    if tally.left:
        raise PartialError(_verdict(tally, leftover.path if leftover.used else None))


class Leftover:
    """The file of what is left: begun with its first line, in place when it is closed."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None

    @property
    def used(self) -> bool:
        """Whether anything is left."""
        return self._file is not None

    def write(self, lines: bytes) -> None:
        """Keep some lines."""
        if self.path is None:
            return
        if self._file is None:
            self._file = self._stack.enter_context(whole_file(self.path))
            self._file.write(HEADER_LINE)
        self._file.write(lines)

    def discard(self) -> None:
        """Remove what was written: the program ends before the file is whole."""
        if self._file is not None:
            Path(self._file.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Give the file its name, also where the retry was broken off."""
        self._stack.close()


def _summary(tally: Tally, *, dry_run: bool) -> str:
    what = "Would copy" if dry_run else "Copied"
    parts = [f"{what} {tally.done:,} ranges, {tally.rows:,} rows"]
    counts = {
        "failed slices done": tally.slices,
        "ranges failed again": tally.failed,
        "bad lines": tally.bad,
        "ranges not tried": tally.untried,
        "ranges of other ships passed over": tally.passed_over,
    }
    return ", ".join(parts + [f"{count:,} {name}" for name, count in counts.items() if count]) + "."


def _verdict(tally: Tally, path: Path | None) -> str:
    where = (
        f"{path} has them: `backfill retry` reads it." if path else "`backfill status --failed` shows them."
    )
    return f"{tally.left:,} ranges are left. {where}"
