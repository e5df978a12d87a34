"""`cdc-consumer schema plan` and `schema apply`: from channel lists and a look at the source to wide tables.

`plan` reads the source and writes nothing. `apply` migrates the control schema, creates what is missing, and
brings newcomers to life; run again, it changes nothing and says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from cdc_consumer.schema_planning import APPLICATION, Options, look_at_target, propose, read_present
from cdc_consumer.schema_report import map_rows, report_lines, schema_report
from cdc_consumer.settings import Settings, command_settings
from widetable.channel_map import DEFAULT_TABLE_NO
from widetable.control import migrate, use_control
from widetable.ddl import apply_schema, ddl_errors
from widetable.drop import Droppable, drop_tables, droppable_tables
from widetable.errors import ConfigurationError, PartialError
from widetable.governor import GovernorReport, govern
from widetable.map_file import read_map, write_map
from widetable.moment_type import MomentType
from widetable.moments import moment_datetime
from widetable.postgres import Connection, connect_ddl
from widetable.registration import Changes
from widetable.sampling import Window
from widetable.schema_plan import SchemaPlan

POLICIES: Final = click.Choice(["auto", "manual"])
Command = TypeVar("Command", bound=Callable[..., Any])

_SHAPE_OPTIONS: Final = (
    click.option(
        "--channels",
        "folder",
        type=click.Path(path_type=Path),
        help="Folder with auxiliary_systems.txt, engine_generator.txt, navigation_ship.txt."
        " Default: what is registered in the target, else the lists that come with the program.",
    ),
    click.option(
        "--map",
        "map_path",
        type=click.Path(path_type=Path),
        help="A channel map (CSV) as `schema plan --write` makes it, in place of the lists.",
    ),
    click.option(
        "--ship-id",
        "ships",
        multiple=True,
        help="Only this ship; repeat for more. Default: all of the source.",
    ),
    click.option(
        "--sample-minutes",
        type=click.IntRange(min=1),
        help="How much of the source is looked at, back from its newest sample. Default: 60.",
    ),
    click.option(
        "--from",
        "since_us",
        type=MomentType(),
        help="Look at all samples of a period, from this moment on.",
    ),
    click.option("--until", "until_us", type=MomentType(), help="Up to, and without, this moment."),
    click.option(
        "--column-type",
        type=click.Choice(["text", "typed"]),
        help="Text columns, or columns of each channel's type. Default: what is settled, else text.",
    ),
    click.option(
        "--adopt",
        is_flag=True,
        help="Take over wide tables that are there already and not ours, with their data.",
    ),
    click.option(
        "--layout",
        type=click.Choice(["systems", "single"]),
        help="A table per system, split into parts if its rows need it, or one for all channels."
        " Default: what is settled, else systems.",
    ),
    click.option(
        "--default-table",
        "default_table_no",
        type=int,
        help="Number of the table for channels that no list and no prefix rule names."
        f" Default: what is settled, else {DEFAULT_TABLE_NO}.",
    ),
)


def shape_options(command: Command) -> Command:
    """Add the options that `plan` and `apply` share."""
    for option in reversed(_SHAPE_OPTIONS):
        command = option(command)
    return command


@click.group()
def schema() -> None:
    """Plan and create the wide tables."""


@schema.command("plan")
@shape_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--write",
    "write_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the channel map to this new file (CSV), to edit it and give it to `schema apply --map`.",
)
def plan_command(*, as_json: bool, write_path: Path | None, **given: Any) -> None:
    """Show the tables that `apply` would create, their row sizes, and what to look at. Changes no database."""
    settings, options = command_settings(), _options(given)
    proposal = propose(settings, options, look_at_target(settings, options))
    report = schema_report(proposal)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(report_lines(report)))
    if write_path:
        write_map(write_path, map_rows(proposal))
        click.echo(f"wrote {write_path}", err=True)
    if report["problems"]:
        raise ConfigurationError(f"`schema apply` would refuse this plan: {'; '.join(report['problems'])}.")


@schema.command("apply")
@shape_options
@click.option(
    "--deletes",
    type=click.Choice(["apply", "ignore"]),
    help="A DELETE at the source empties the cell (apply) or is ignored: for sources that drop old samples."
    " Default: what is settled, else apply.",
)
@click.option(
    "--new-channels",
    type=POLICIES,
    help="Add channels nobody has seen (auto), or leave them in overflow. Default: what is set, else auto.",
)
@click.option("--new-ships", type=POLICIES, help="Likewise for ships.")
@click.option("--drop-tables", is_flag=True, help="First drop the wide tables, with their data.")
@click.option("--yes", is_flag=True, help="Don't ask before dropping.")
def apply_command(*, yes: bool, **given: Any) -> None:
    """Create the control schema and the wide tables, or add what they lack; says what it changed."""
    settings, options = command_settings(), _options(given)
    if options.starts_anew and options.adopt:
        raise click.UsageError("--adopt keeps the tables that --drop-tables would drop: give one of them.")
    if options.map_path:
        read_map(options.map_path)  # its mistakes come before any change
    with closing(connect_ddl(settings.target, APPLICATION)) as conn:
        with ddl_errors(settings.target):
            steps = [
                f"{step.number:04} {step.name}" for step in migrate(conn, settings.target.control_schema)
            ]
            use_control(conn, settings.target.control_schema)
        proposal = propose(settings, options, read_present(conn, settings, options))
        plan = proposal.plan
        if options.starts_anew:
            _drop(conn, settings, plan, yes=yes)
        changes = apply_schema(conn, settings.target, plan, proposal.adopted)
        changes.migrations += steps
    _print_changes(changes, plan)
    _bring_to_life(settings)


def _options(given: dict[str, Any]) -> Options:
    since, until = (_datetime(given.pop(name)) for name in ("since_us", "until_us"))
    minutes = given.pop("sample_minutes")
    if minutes and (since or until):
        raise click.UsageError("--sample-minutes and a period (--from, --until) exclude each other.")
    if since and until and since >= until:
        raise click.UsageError("--from must be before --until.")
    window = Window(minutes or 60, since, until)
    folder, map_path, ships, adopt = (given.pop(name) for name in ("folder", "map_path", "ships", "adopt"))
    starts_anew = bool(given.pop("drop_tables", False))
    return Options(folder, map_path, ships, window, adopt, starts_anew, given)


def _datetime(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else moment_datetime(moment_us)


# -- dropping ---------------------------------------------------------------------------------------------


def _drop(conn: Connection, settings: Settings, plan: SchemaPlan, *, yes: bool) -> None:
    tables = droppable_tables(conn, settings.target, plan)
    for table in tables:
        click.echo(
            f"drops {table.name}: about {table.estimated_rows:,} rows, {table.size_bytes / 2**20:,.1f} MB"
        )
    if tables and not yes:
        _confirm(tables)
    drop_tables(conn, settings.target, tables)


def _confirm(tables: Sequence[Droppable]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("--drop-tables asks before it drops; there is no terminal here, so add --yes.")
    click.confirm(f"Drop {len(tables)} tables and their data?", abort=True)


# -- what was done ----------------------------------------------------------------------------------------


def _print_changes(changes: Changes, plan: SchemaPlan) -> None:
    if not changes:
        click.echo(
            f"nothing to change: {len(plan.channels):,} channels, {len(plan.ships)} ships are as planned"
        )
    for step in changes.migrations:
        click.echo(f"control schema: {step}")
    for setting in changes.settings:
        click.echo(f"settled: {setting}")
    for title, names in (
        ("channels", changes.channels),
        ("ships", changes.ships),
        ("tables", changes.tables),
    ):
        if names:
            click.echo(f"added {len(names):,} {title}")
    if changes.adopted:
        click.echo(
            f"adopted {len(changes.adopted):,} tables: `backfill run` fills what they lack, and"
            " `backfill verify --repair` mends what differs"
        )
    if changes.grants:
        click.echo(f"granted SELECT on {len(changes.grants):,} tables")
    for note in changes.notes:
        click.echo(f"note: {note}")


def _bring_to_life(settings: Settings) -> None:
    """Add columns and drain overflow for what is pending, unless a running consumer does."""
    target = settings.target
    while (report := govern(lambda: connect_ddl(target, APPLICATION), target)).more:
        _print_progress(report)
    _print_progress(report)
    if report.stuck:
        raise PartialError(f"Not everything could be added: {'; '.join(report.stuck)}.")


def _print_progress(report: GovernorReport) -> None:
    if report.busy:
        click.echo("a running consumer adds what is pending")
    if report.live_channels or report.live_ships or report.drained_cells:
        click.echo(
            f"live: {len(report.live_channels)} channels, {len(report.live_ships)} ships;"
            f" {report.drained_cells:,} cells moved from overflow"
        )
    for newcomer in report.waiting:
        click.echo(f"waiting: {newcomer}")
