"""`backfill status --failed`: the failed slices alone, for a person, a machine, or `backfill retry`."""

from __future__ import annotations

import json
from contextlib import closing

import click

from backfill.failed_csv import HEADER_LINE, range_line
from backfill.retry import FailedRange, failed_ranges
from backfill.scope import Scope
from backfill.settings import Settings
from widetable.control import check_control
from widetable.hand_off import streaming_hand_off
from widetable.moments import moment_text
from widetable.postgres import connect_target


def show_failed(settings: Settings, *, failed: bool, as_csv: bool, as_json: bool) -> None:
    """Print the failed slices of the plans that count.

    Raises:
        click.UsageError: `--csv` without `--failed`, or with `--json`.
    """
    if as_csv and (as_json or not failed):
        raise click.UsageError("--csv goes with --failed, and not with --json")
    with closing(connect_target(settings.target, "backfill status")) as conn:
        check_control(conn, settings.target.control_schema)
        name = settings.pipeline.name
        streams = streaming_hand_off(conn, name) is not None
        found = failed_ranges(conn, name, streams=streams)
    if as_csv:
        lines = [range_line(ship, it.failed.bounds) for it in found for ship in it.plan.scope.ships]
        click.echo(b"".join([HEADER_LINE, *lines]), nl=False)
    elif as_json:
        click.echo(json.dumps([_json(it) for it in found], indent=2))
    else:
        click.echo("\n".join(map(_text, found)) or "No failed slices.")


def _json(found: FailedRange) -> dict[str, object]:
    bounds = found.failed.bounds
    return {
        "plan_id": found.plan.plan_id,
        "slice_no": found.failed.slice_no,
        "ships": list(found.plan.scope.ships),
        "from": None if bounds.lower_us is None else moment_text(bounds.lower_us),
        "until": None if bounds.upper_us is None else moment_text(bounds.upper_us),
        "attempt": found.failed.attempt,
        "error": found.failed.error,
    }


def _text(found: FailedRange) -> str:
    where = Scope((), found.failed.bounds.lower_us, found.failed.bounds.upper_us).range_text
    return (
        f"Plan {found.plan.plan_id}, slice {found.failed.slice_no} ({where},"
        f" {', '.join(found.plan.scope.ships)}) after {found.failed.attempt} attempts: {found.failed.error}"
    )
