"""`cdc-consumer logs`: the log file of both programs, read across its pieces, followed, summed up or cleared.

In: the file that `CDC_LOG__FILE` or `--log-file` names; no other setting is needed. Out: lines on stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import click

from widetable import log_file
from widetable.environment import EnvironmentSettings, load
from widetable.errors import ConfigurationError
from widetable.logs import LogSettings

POLL_S: Final = 0.2
ERRORS: Final = frozenset({"error", "critical"})
LEVELS: Final = ("critical", "error", "warning", "info", "debug")
SHOWN_EVENTS: Final = 20


class LogsOnly(EnvironmentSettings):
    """The one section that this command reads."""

    log: LogSettings = LogSettings()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are asked for."""

    errors: bool
    search: str | None

    def __call__(self, line: str) -> bool:
        """Whether this line is one of them."""
        if self.search is not None and self.search.lower() not in line.lower():
            return False
        return not self.errors or _event(line).get("level") in ERRORS


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on, until Ctrl+C.")
@click.option("-e", "--errors", is_flag=True, help="Only errors.")
@click.option("-s", "--summary", is_flag=True, help="Count the lines by level and event.")
@click.option("-c", "--clear", is_flag=True, help="Remove what was logged; asks first.")
@click.option("--search", metavar="TEXT", help="Only lines with this text, in any case.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=100, help="Show so many of the last lines."
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they are, in JSON.")
@click.option("--yes", is_flag=True, help="Don't ask before clearing.")
def logs(
    *,
    follow: bool,
    errors: bool,
    summary: bool,
    clear: bool,
    search: str | None,
    lines: int,
    as_json: bool,
    yes: bool,
) -> None:
    """Show the log file, oldest line first: all that both programs logged with CDC_LOG__FILE set."""
    if sum((follow, summary, clear)) > 1:
        raise click.UsageError("--follow, --summary and --clear exclude each other")
    file, wanted = _file(), Wanted(errors, search)
    if clear:
        _clear(file, yes)
        return
    if summary:
        click.echo("\n".join(summary_lines(filter(wanted, _all_lines(file)))))
        return
    with _Tail(file) as tail:  # opened first: what comes while the rest is read is not missed
        for line in deque(filter(wanted, _all_lines(file)), maxlen=lines):
            click.echo(line if as_json else as_text(line))
        for line in filter(wanted, tail.lines()) if follow else ():
            click.echo(line if as_json else as_text(line))


def as_text(line: str) -> str:
    """One event for a person: time, level, event, the rest as pairs, a traceback below."""
    event = _event(line)
    moment, level, name = (event.pop(key, "") for key in ("timestamp", "level", "event"))
    trace = event.pop("exception", None)
    pairs = "".join(f" {key}={value}" for key, value in event.items())
    return f"{str(moment)[:19]} {level:<8} {name}{pairs}" + (f"\n{trace}" if trace else "")


def summary_lines(lines: Iterable[str]) -> Iterator[str]:
    """The time that is covered, lines by level, and the most frequent events, the worst level first."""
    events = [_event(line) for line in lines]
    if not events:
        yield "nothing was logged"
        return
    moments = [str(event["timestamp"]) for event in events if "timestamp" in event]
    yield f"{len(events):,} lines, {min(moments, default='?')[:19]} to {max(moments, default='?')[:19]} (UTC)"
    levels = Counter(str(event.get("level")) for event in events)
    yield ", ".join(f"{level} {levels[level]:,}" for level in LEVELS if levels[level])
    yield ""
    counts = Counter((str(event.get("level")), str(event.get("event"))) for event in events)
    order = {level: place for place, level in enumerate(LEVELS)}
    ranked = sorted(counts, key=lambda key: (order.get(key[0], len(order)), -counts[key]))
    yield from (f"{counts[key]:>9,} {key[0]:<8} {key[1]}" for key in ranked[:SHOWN_EVENTS])
    if len(ranked) > SHOWN_EVENTS:
        yield f"          … and {len(ranked) - SHOWN_EVENTS:,} other events"


class _Tail:
    """What is appended to a file from now on, through rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def lines(self) -> Iterator[str]:
        """Each whole line, until Ctrl+C."""
        begun = b""
        try:
            while True:
                begun += self._file.readline()
                if begun.endswith(b"\n"):
                    yield begun.decode("utf-8", "replace").removesuffix("\n")
                    begun = b""
                elif not self._has_more():
                    time.sleep(POLL_S)
        except KeyboardInterrupt:
            return

    def _has_more(self) -> bool:
        """Whether there may be something to read: here, in the next piece, or in the file that was cleared."""
        try:
            now = self._path.stat()
        except FileNotFoundError:  # between two steps of a rotation
            return False
        here, position = os.fstat(self._file.fileno()), self._file.tell()
        if here.st_size < position:
            self._file.seek(0)
        elif here.st_size == position and not os.path.samestat(now, here):
            self._file.close()
            self._file = self._path.open("rb")
            return True
        return here.st_size != position


def _file() -> Path:
    file = load(LogsOnly).log.file
    if file is None:
        raise ConfigurationError(
            "no log file is set: set CDC_LOG__FILE, or name it with --log-file; without one, logs go to stderr"
            " only, where the supervisor keeps them."
        )
    if not file.exists():
        raise ConfigurationError(
            f"there is no log file {file} yet: CDC_LOG__FILE is where programs write it."
        )
    return file


def _all_lines(file: Path) -> Iterator[str]:
    for piece in log_file.pieces(file):
        with piece.open(encoding="utf-8", errors="replace") as opened:
            yield from (line.removesuffix("\n") for line in opened)


def _clear(file: Path, yes: bool) -> None:
    """Programs that write go on: they append to the file, which is emptied, not removed."""
    pieces = log_file.pieces(file)
    size_mb = sum(piece.stat().st_size for piece in pieces) / 1e6
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--clear asks before it removes; there is no terminal here, so add --yes")
        click.confirm(f"Remove {size_mb:,.1f} MB of logs?", abort=True)
    for piece in pieces:
        os.truncate(piece, 0) if piece == file else piece.unlink()
    click.echo(f"removed {size_mb:,.1f} MB of logs")


def _event(line: str) -> dict[str, Any]:
    """The event of a line; one that is not ours is its text."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {"event": line}
