"""`cdc-consumer dead-letters`: look at dead cells, replay them once their cause is mended, take them elsewhere.

In: flags and settings. Out: answers on stdout, and exit code 5 where letters of a replay are left.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from cdc_consumer.dead_letters import (
    RECORD_REASONS,
    VALUE_REASONS,
    Filters,
    every,
    latest,
    letter_json,
    letter_lines,
    list_lines,
    numbered,
    numbers,
    reason_json,
    summary,
)
from cdc_consumer.dead_letters_export import WRITERS
from cdc_consumer.dead_letters_export import export as write_file
from cdc_consumer.dead_letters_replay import APPLICATION, Replayed
from cdc_consumer.dead_letters_replay import replay as replay_letters
from cdc_consumer.settings import Settings, command_settings
from widetable.control import check_control
from widetable.dead_cells import created_time_text
from widetable.errors import PartialError
from widetable.postgres import Connection, connect_target

Command = TypeVar("Command", bound=Callable[..., Any])
REASONS: Final = click.Choice([*VALUE_REASONS, *RECORD_REASONS])
NUMBER: Final = click.IntRange(1, 2**63 - 1)
LAST_PARTITION: Final = 2**31 - 1
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Instant(click.ParamType[datetime]):
    """A point in time; without a time zone it is UTC."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """An aware datetime."""
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time like 2026-01-31T08:00 or 2026-01-31T08:00+02:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_FILTERS: Final = (
    click.option("--reason", type=REASONS, help="Only those that are dead for this."),
    click.option(
        "--partition", type=click.IntRange(0, LAST_PARTITION), help="Only records of this partition."
    ),
    click.option("--ship-id", help="Only cells of this ship; a record that was not understood has none."),
    click.option(
        "--since", type=Instant(), help="Only those recorded from this time on (UTC unless it says)."
    ),
)


def filter_options(command: Command) -> Command:
    """Add the options that choose letters."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at dead cells, and replay or export them."""


@dead_letters.command("list")
@filter_options
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many are listed."
)
@JSON
def list_command(*, limit: int, as_json: bool, **asked: Any) -> None:
    """Show how many there are for each reason, and the latest of them."""
    settings, filters = command_settings(), Filters(**asked)
    with _control(settings) as conn:
        reasons = summary(conn, settings.pipeline.name, filters)
        letters = latest(conn, settings.pipeline.name, filters, limit)
    if as_json:
        shown = [letter_json(letter, content=False) for letter in letters]
        facts = {"reasons": [reason_json(reason) for reason in reasons], "dead_cells": shown}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo("\n".join(list_lines(reasons, letters)))


@dead_letters.command()
@click.argument("number", type=NUMBER)
@JSON
def show(*, number: int, as_json: bool) -> None:
    """Show all that is known of one: coordinates, headers, detail, key and value."""
    settings = command_settings()
    with _control(settings) as conn:
        (letter,) = numbered(conn, settings.pipeline.name, [number]) or _unknown([number])
    click.echo(json.dumps(letter_json(letter), indent=2) if as_json else "\n".join(letter_lines(letter)))


@dead_letters.command()
@click.argument("wanted", metavar="[NUMBER]...", type=NUMBER, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are there.")
@click.option("--reason", type=REASONS, help="All that are dead for this.")
@click.option(
    "--ended-epochs", is_flag=True, help="Also records of epochs that ended; `backfill verify` is then due."
)
def replay(*, wanted: Sequence[int], everything: bool, reason: str | None, ended_epochs: bool) -> None:
    """Decode and apply records again, once their cause is mended; a running consumer may go on.

    Each is applied under its own place in the order of changes: what is newer stays. What was applied is dead no
    more; what can't be stays, and the answer says why. Exits with 5 if any is left.
    """
    if sum([bool(wanted), everything, reason is not None]) != 1:
        raise click.UsageError("say which: numbers, or --reason, or --all")
    settings, done = command_settings(), Replayed()
    with _control(settings) as conn:
        chosen = _chosen(conn, settings.pipeline.name, wanted, reason)
    try:
        replay_letters(settings, chosen, done, ended_epochs=ended_epochs)
    finally:
        click.echo("\n".join(_replay_lines(done)))
    if done.left:
        raise PartialError(f"{len(done.left):,} of {len(done.outcomes):,} dead cells are left")


@dead_letters.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@filter_options
def export(*, file: Path, **asked: Any) -> None:
    """Write them to FILE, oldest first: CSV or JSON lines by its name, keys and values in base64."""
    if file.suffix not in WRITERS:
        raise click.UsageError(f"{file} ends in neither {' nor '.join(WRITERS)}: that says what to write")
    if file.exists():
        raise click.UsageError(f"{file} is there already: remove it, or name another file")
    settings = command_settings()
    with _control(settings) as conn:
        count = write_file(every(conn, settings.pipeline.name, Filters(**asked)), file)
    click.echo(f"{count:,} dead cells in {file}")


@contextmanager
def _control(settings: Settings) -> Iterator[Connection]:
    with closing(connect_target(settings.target, APPLICATION)) as conn:
        check_control(conn, settings.target.control_schema)
        yield conn


def _chosen(conn: Connection, pipeline: str, wanted: Sequence[int], reason: str | None) -> list[int]:
    if not wanted:
        return numbers(conn, pipeline, Filters(reason=reason))
    there = {letter.number for letter in numbered(conn, pipeline, wanted)}
    if missing := sorted(set(wanted) - there):
        _unknown(missing)
    return sorted(there)


def _unknown(missing: Sequence[int]) -> NoReturn:
    listed = ", ".join(map(str, missing))
    raise click.UsageError(f"no dead cell has number {listed}; `cdc-consumer dead-letters list` shows them")


def _replay_lines(done: Replayed) -> Iterator[str]:
    for outcome in done.left:
        yield f"{outcome.number}: {outcome.text}"
    counts = done.applied
    yield (
        f"replayed {len(done.outcomes) - len(done.left):,} of {len(done.outcomes):,}: {counts.applied:,} samples"
        f" applied, {counts.superseded:,} outranked by newer ones, {counts.overflow:,} in overflow"
    )
    if done.first_us is not None and done.last_us is not None:
        ships = " ".join(f"--ship-id {shlex.quote(ship)}" for ship in sorted(done.ships))
        first, end = created_time_text(done.first_us), created_time_text(done.last_us + 1)
        yield f"now see that they agree with the source: backfill verify {ships} --from {first} --until {end}"
