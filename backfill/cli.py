"""The command line of `backfill`: flags and environment in, an answer on stdout and an exit code out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from backfill.app import (
    Outcome,
    Proposal,
    Request,
    propose,
    require_hand_off_or_flag,
    run_backfill,
)
from backfill.export_command import export
from backfill.import_command import import_
from backfill.indexes import deferred_indexes
from backfill.progress import Report, display
from backfill.retry_command import retry
from backfill.runner import require_complete
from backfill.settings import Settings
from backfill.status_command import status
from backfill.texts import proposal_json, proposal_text, report_text
from backfill.verify_command import verify
from widetable import command_line, logs
from widetable.config_show import config_command
from widetable.environment import load, load_with_origins, variables
from widetable.moment_type import MomentType
from widetable.program import Program

F = TypeVar("F", bound=Callable[..., Any])
CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def main() -> NoReturn:
    """Run `backfill` and end the process with its exit code."""
    command_line.run(commands)


def _settings_help() -> str:
    """Every setting of the environment, for `--help`."""
    lines = [f"{name}  {field.description or ''}" for name, field in variables(Settings)]
    return "\b\nSettings (environment variables; …_FILE names a file with the value):\n" + "\n".join(lines)


@click.group(cls=Program, context_settings=CONTEXT, epilog=_settings_help())
def commands() -> None:
    """Copy the history of the narrow table into the wide tables, beside a running change stream.

    History is cut into slices of time. Each slice and its record are one transaction of the target, so a run
    that was interrupted, in whatever way, is resumed by running it again.
    """


def scope_options(command: F) -> F:
    """The flags that say what to copy."""
    flags = [
        click.option("--ship-id", "ships", multiple=True, help="Only this ship; may be given several times."),
        click.option(
            "--from", "from_us", type=MomentType(), help="First created_time to copy (no time zone)."
        ),
        click.option(
            "--cutoff-time",
            "until_us",
            type=MomentType(),
            help="Copy what lies before this created_time only.",
        ),
        click.option("--workers", type=click.IntRange(1, 64), help="Processes that copy at the same time."),
        click.option(
            "--rate-limit",
            "rows_per_s",
            type=click.FloatRange(min=0, min_open=True),
            help="Rows per second of all workers together.",
        ),
        click.option("--again", is_flag=True, help="Copy also what a finished plan has copied."),
    ]
    for flag in reversed(flags):
        command = flag(command)
    return command


@commands.command()
@scope_options
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, with every slice.")
def plan(workers: int | None, as_json: bool, **asked: Any) -> None:
    """Show the slices, rows and time that `run` with the same flags would take; writes nothing."""
    proposal = propose(_settings(workers), Request(**asked))
    click.echo(json.dumps(proposal_json(proposal), indent=2) if as_json else proposal_text(proposal))


@commands.command()
@scope_options
@click.option("--dry-run", is_flag=True, help="Check everything and show the plan, but write nothing.")
@click.option("--no-handoff", is_flag=True, help="Copy once without a change stream: no `cdc-consumer init`.")
@click.option("--replace", is_flag=True, help="Give up open plans that overlap, and plan anew.")
@click.option(
    "--defer-indexes",
    is_flag=True,
    help="Drop secondary indexes of the wide tables; build them after the load.",
)
@click.option(
    "--brin", is_flag=True, help="After the load, build BRIN indexes on created_time where there is none."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write figures as JSON here.",
)
def run(
    workers: int | None, dry_run: bool, defer_indexes: bool, brin: bool, report: Path | None, **asked: Any
) -> None:
    """Copy history, or go on with a copy that was interrupted.

    Exits 0 when everything asked for is copied, 5 when it was stopped or slices failed.
    """
    settings, request = _settings(workers), Request(**asked)
    proposal = propose(settings, request)
    require_hand_off_or_flag(proposal.hand_off, no_handoff=request.no_handoff)
    click.echo(proposal_text(proposal, slices=dry_run), err=not dry_run)
    if dry_run:
        return
    ships, drop = proposal.wanted.ships, defer_indexes and not proposal.nothing_to_do
    with deferred_indexes(settings, ships, _say, drop=drop, brin=brin):
        first = _finish(settings, request, proposal, report)
        if proposal.ships_to_follow:
            request = replace(request, ships=proposal.ships_to_follow)
            rest = propose(settings, request)
            click.echo(proposal_text(rest, slices=False), err=True)
            _finish(settings, request, rest, report, first)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _finish(
    settings: Settings, request: Request, proposal: Proposal, file: Path | None, before: Report | None = None
) -> Report:
    """Copy what was proposed to the end, and say what was done; the file has what was done `before`, too."""
    outcome = _copy(settings, request, proposal)
    click.echo(report_text(outcome.report))
    report = before.followed_by(outcome.report) if before else outcome.report
    if file:
        report.write(file)
    if outcome.totals:
        require_complete(outcome.totals)
    return report


def _copy(settings: Settings, request: Request, proposal: Proposal) -> Outcome:
    shown = display(settings.log)
    try:
        return run_backfill(settings, request, proposal, shown)
    finally:
        shown.close()


commands.add_command(status)
commands.add_command(config_command(lambda: load_with_origins(Settings)))
commands.add_command(verify)
commands.add_command(retry)
commands.add_command(import_)
commands.add_command(export)


def _settings(workers: int | None = None) -> Settings:
    settings = load(Settings) if workers is None else load(Settings, backfill={"workers": workers})
    logs.configure(settings.log)
    return settings
