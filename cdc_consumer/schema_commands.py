"""`cdc-consumer schema plan` and `schema apply`: from channel lists and a look at the source to wide tables.

`plan` reads the source and writes nothing. `apply` migrates the control schema, creates what is missing, and
brings newcomers to life; run again, it changes nothing and says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from cdc_consumer.schema_report import report_lines, schema_report
from cdc_consumer.settings import Settings, load_settings
from widetable.channel_map import DEFAULT_TABLE_NO, read_channel_lists
from widetable.control import migrate, use_control
from widetable.ddl import apply_schema, ddl_errors
from widetable.drop import Droppable, drop_tables, droppable_tables
from widetable.errors import ConfigurationError, PartialError
from widetable.governor import GovernorReport, govern
from widetable.postgres import Connection, connect_ddl, connect_source
from widetable.registration import Changes
from widetable.registry import Registry, read_registry
from widetable.sampling import Sample, take_sample
from widetable.schema_plan import SchemaPlan, plan_schema

APPLICATION: Final = "cdc-consumer schema"
POLICIES: Final = click.Choice(["auto", "manual"])
Command = TypeVar("Command", bound=Callable[..., Any])

_SHAPE_OPTIONS: Final = (
    click.option(
        "--channels",
        "folder",
        type=click.Path(path_type=Path),
        help="Folder with auxiliary_systems.txt, engine_generator.txt, navigation_ship.txt."
        " Default: the lists that come with the program.",
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
        default=60,
        show_default=True,
        help="How much of the source is looked at, back from its newest sample.",
    ),
    click.option(
        "--column-type",
        type=click.Choice(["text", "typed"]),
        help="Text columns, or columns of each channel's type. Default: text (apply: what is settled).",
    ),
    click.option(
        "--layout",
        type=click.Choice(["systems", "single"]),
        help="A table per system, or one for all. Default: systems (apply: what is settled).",
    ),
    click.option(
        "--default-table",
        type=int,
        help="Number of the table for channels that no list and no prefix rule names."
        f" Default: {DEFAULT_TABLE_NO} (apply: what is settled).",
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
def plan_command(
    *, folder: Path | None, ships: Sequence[str], sample_minutes: int, as_json: bool, **shape: Any
) -> None:
    """Show the tables that `apply` would create, their row sizes, and what to look at. Writes nothing."""
    settings = load_settings()
    lists = read_channel_lists(folder)
    listed = [channel_id for part in lists for channel_id in part.channel_ids]
    sample = _sample(settings, ships, sample_minutes, listed)
    plan = plan_schema(lists, sample, **_choices(shape, None))
    report = schema_report(plan, sample)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(report_lines(report)))
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
def apply_command(
    *,
    folder: Path | None,
    ships: Sequence[str],
    sample_minutes: int,
    drop_tables: bool,
    yes: bool,
    **choices: Any,
) -> None:
    """Create the control schema and the wide tables, or add what they lack; says what it changed."""
    settings = load_settings()
    lists = read_channel_lists(folder)
    sample = _sample(
        settings, ships, sample_minutes, [channel for part in lists for channel in part.channel_ids]
    )
    with closing(connect_ddl(settings.target, APPLICATION)) as conn:
        with ddl_errors(settings.target):
            steps = [
                f"{step.number:04} {step.name}" for step in migrate(conn, settings.target.control_schema)
            ]
            use_control(conn, settings.target.control_schema)
        settled = read_registry(conn)
        plan = plan_schema(lists, sample, **_choices(choices, settled))
        if drop_tables:
            _drop(conn, settings, plan, yes=yes)
        changes = apply_schema(conn, settings.target, plan)
        changes.migrations += steps
    _print_changes(changes, plan)
    _bring_to_life(settings)


def _sample(settings: Settings, ships: Sequence[str], minutes: int, listed: Sequence[str]) -> Sample:
    with closing(connect_source(settings.source, APPLICATION)) as conn:
        return take_sample(conn, settings.source, minutes=minutes, ships=ships, listed=listed)


def _choices(given: dict[str, Any], settled: Registry | None) -> dict[str, Any]:
    """What was asked for, else what is settled, else nothing: the plan has its own defaults."""
    if settled is not None:
        single = [system.name for system in settled.systems] == ["single"]
        there = {
            "column_type": settled.column_type,
            "layout": "single" if single else "systems",
            "default_table": settled.default_table_no,
            "deletes": settled.deletes,
            "new_channels": settled.new_channels,
            "new_ships": settled.new_ships,
        }
        given = {name: there[name] if value is None else value for name, value in given.items()}
    names = {"default_table": "default_table_no"}
    return {names.get(name, name): value for name, value in given.items() if value is not None}


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
