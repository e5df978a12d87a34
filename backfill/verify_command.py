"""`backfill verify`: the command around `widetable.verify`.

In: settings and flags. Out: a report on stdout (text or JSON) and in a file if asked for, how far each ship
is verified in the control schema, and exit code 0 or 5.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Final

import click

from backfill.follow import CELLS_PER_S, Following, Pacer, print_json, print_text, run_following
from backfill.settings import Settings
from widetable import environment, logs
from widetable.control import check_control
from widetable.errors import PartialError
from widetable.moment_type import MomentType
from widetable.postgres import Connection, connect_source, connect_target
from widetable.resync import Resync
from widetable.settled import wait_settled
from widetable.verify import (
    Limits,
    Scope,
    Source,
    Target,
    Verifier,
    VerifyReport,
    record_verified,
    settle_due,
    verify_due,
)
from widetable.verify.scope import Span

APPLICATION: Final = "backfill verify"
PROGRESS_S: Final = 5.0


@click.command("verify")
@click.option("--ship-id", "ships", multiple=True, metavar="SHIP", help="Only this ship; may be repeated.")
@click.option("--from", "from_us", type=MomentType(), help="Only moments from this one on.")
@click.option("--until", "until_us", type=MomentType(), help="Only moments before this one.")
@click.option(
    "--settle/--no-settle",
    default=True,
    show_default=True,
    help="Wait for the consumer to have applied what was read; --no-settle where nothing writes.",
)
@click.option(
    "--settle-timeout", "settle_timeout_s", default=180.0, show_default=True, help="Seconds to wait."
)
@click.option("--repair", is_flag=True, help="Give cells that differ the source's state (resync).")
@click.option("--fail-fast", is_flag=True, help="Stop at the first cells that differ.")
@click.option(
    "--max-differences", default=100, show_default=True, help="How many are listed; all are counted."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--report", "report_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write it, as JSON."
)
@click.option(
    "--rate-limit",
    "cells_per_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="CELLS",
    help=f"Cells per second that are read at the source; with --follow {CELLS_PER_S:,} unless set.",
)
@click.option(
    "--follow", is_flag=True, help="Go on until SIGTERM: everything in rotation, and what changes soon after."
)
def verify(
    *,
    ships: tuple[str, ...],
    from_us: int | None,
    until_us: int | None,
    settle: bool,
    settle_timeout_s: float,
    repair: bool,
    fail_fast: bool,
    max_differences: int,
    as_json: bool,
    report_path: Path | None,
    cells_per_s: float | None,
    follow: bool,
) -> None:
    """Prove that source and target agree, to the cell.

    PostgreSQL hashes the cells of each ship and stretch of time on both sides; where the sums differ, the
    cells are found and looked at again before they count. Works beside a running consumer. With --follow it
    prints a line (--json: an object) per look, outlives outages, and keeps up to date what is published.

    Exits 0 when no cell differs, or all that did are repaired; 5 when some do.
    """
    scope = Scope(tuple(dict.fromkeys(ships)) or None, _span(from_us, until_us))
    limits = Limits(differences=max_differences, fail_fast=fail_fast)
    wait_s = settle_timeout_s if settle else None
    if follow:
        _refuse_with_follow(scope, report_path, fail_fast=fail_fast)
    settings = environment.load(Settings)
    logs.configure(settings.log)
    if follow:
        asked = Following(wait_s, cells_per_s or CELLS_PER_S, max_differences, repair=repair)
        run_following(settings, asked, print_json if as_json else print_text)
        return
    report = run(settings, scope, limits, wait_s, repair=repair, cells_per_s=cells_per_s)
    as_data = json.dumps(report.as_dict(), indent=2)
    if report_path:
        report_path.write_text(as_data + "\n", encoding="utf-8")
    click.echo(as_data if as_json else report.as_text())
    if not report.agrees:
        raise PartialError(_verdict(report))


def run(
    settings: Settings,
    scope: Scope,
    limits: Limits,
    settle_timeout_s: float | None,
    *,
    repair: bool = False,
    cells_per_s: float | None = None,
) -> VerifyReport:
    """Connect, compare, repair if asked to, record what is verified.

    Args:
        settings: where both sides are.
        scope: what to compare.
        limits: how much is read at once, kept and tried.
        settle_timeout_s: seconds to wait for the consumer; None doesn't wait at all.
        repair: resync the cells found wrong.
        cells_per_s: cells that are read at the source per second; None: as fast as it can.
    """
    pacer = Pacer(cells_per_s or math.inf, Event())
    with (
        closing(connect_source(settings.source, APPLICATION)) as source_conn,
        closing(connect_target(settings.target, APPLICATION)) as target_conn,
        closing(Resync(settings.source, settings.target, settings.pipeline.name)) as resync,
    ):
        check_control(target_conn, settings.target.control_schema)
        due = verify_due(target_conn, settings.pipeline.name)
        source = Source(source_conn, settings.source.table)
        target = Target(target_conn, settings.target.control_schema)
        settle = (
            None
            if settle_timeout_s is None
            else _settle(target_conn, settings.pipeline.name, settle_timeout_s)
        )
        heal = resync.heal if repair else None
        report = Verifier(source, target, settle, limits, _progress(), heal, pacer.spend).run(scope)
        record_verified(target_conn, settings.pipeline.name, report)
        settle_due(target_conn, settings.pipeline.name, due, scope, report)
    return report


def _refuse_with_follow(scope: Scope, report_path: Path | None, *, fail_fast: bool) -> None:
    if scope != Scope() or report_path or fail_fast:
        raise click.UsageError(
            "--follow looks at everything, for ever: it takes no --ship-id, --from, --until,"
            " --report or --fail-fast"
        )


def _span(from_us: int | None, until_us: int | None) -> Span:
    whole = Span()
    span = whole.clip(
        Span(
            whole.lower_us if from_us is None else from_us,
            whole.upper_us if until_us is None else until_us,
        )
    )
    if span.empty:
        raise click.UsageError("--from must lie before --until")
    return span


def _settle(conn: Connection, pipeline: str, timeout_s: float) -> Callable[[int], None]:
    def settle(lsn: int) -> None:
        wait_settled(conn, pipeline, lsn, timeout_s)

    return settle


def _progress() -> Callable[[int, int, int], None]:
    """A line on stderr every few seconds: stdout is the report's."""
    started = last = time.monotonic()

    def progress(done: int, total: int, cells: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_S:
            last = now
            rate = cells / (now - started)
            click.echo(f"{done} of {total} windows, {cells:,} cells, {rate:,.0f} cells/s", err=True)

    return progress


def _verdict(report: VerifyReport) -> str:
    parts = []
    if report.remaining:
        parts.append(f"{report.remaining} cells differ")
    if report.unsettled:
        parts.append(f"{report.unsettled} cells kept changing; run `backfill verify` again when they rest")
    return "source and target do not agree: " + ", ".join(parts)
