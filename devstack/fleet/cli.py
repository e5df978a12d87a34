"""`python -m devstack.fleet history|live`: the simulator by hand; the report is a line of JSON."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from devstack.fleet.database import fleet_session, written_span
from devstack.fleet.history import write_history
from devstack.fleet.live import LiveLoad
from devstack.fleet.plan import CHANNEL_FOLDER, DEFAULT_SHIPS, ORDERS, FleetPlan, Order, plan_fleet
from devstack.fleet.script import CALM, Mix
from widetable.errors import WideTableError

P = ParamSpec("P")
R = TypeVar("R")
MOMENT = click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"])


def dsn_from_file() -> str | None:
    """The source's DSN from a file, as the product reads it: containers get their secrets so."""
    name = os.environ.get("CDC_SOURCE__DSN_FILE")
    return Path(name).read_text(encoding="utf-8").strip() if name else None


def fleet_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add the options that describe a fleet and where it writes."""
    options = (
        click.option(
            "--dsn", envvar="CDC_SOURCE__DSN", default=dsn_from_file, show_default=False, required=True,
            help="Source [CDC_SOURCE__DSN, or CDC_SOURCE__DSN_FILE].",
        ),
        click.option("--ships", default=len(DEFAULT_SHIPS), show_default=True, help="Ships of the fleet."),
        click.option("--seed", default=1, show_default=True, help="Same seed, same samples."),
        click.option(
            "--order", type=click.Choice(ORDERS), default="moment", show_default=True,
            help="How a burst is written: moment by moment, or channel by channel.",
        ),
        click.option(
            "--channels", type=click.Path(path_type=Path), default=CHANNEL_FOLDER,
            help="Folder of channel lists (*.txt); default: the project's own.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def fleet() -> None:
    """Simulate ships that write into the narrow table tenant.tbl_data_timeseries."""


@fleet.command()
@fleet_options
@click.option("--rows", default=1_000_000, show_default=True, help="Rows to write.")
@click.option("--until", type=MOMENT, default=None, help="Where history ends (UTC); default: now.")
@click.option("--strangers", is_flag=True, help="Add one ship and three channels that are in no list.")
def history(
    *,
    dsn: str,
    ships: int,
    seed: int,
    order: Order,
    channels: Path,
    rows: int,
    until: datetime | None,
    strangers: bool,
) -> None:
    """Write history with COPY, in one transaction."""
    plan = plan_fleet(ships, seed=seed, order=order, channel_folder=channels)
    fleet_plan = plan.with_strangers() if strangers else plan
    click.echo(write_history(dsn, fleet_plan, rows, until or datetime.now(UTC)).to_json())


@fleet.command()
@fleet_options
@click.option("--rate", type=float, help="Rows a second; 0 for no pause; default: real time.")
@click.option("--seconds", type=float, help="How long to write; default: until Ctrl+C or SIGTERM.")
@click.option(
    "--start", type=MOMENT, default=None, help="First moment (UTC); default: after the last one written."
)
@click.option("--calm", is_flag=True, help="Only bursts: no corrections, deletes, key changes or strangers.")
def live(
    *,
    dsn: str,
    ships: int,
    seed: int,
    order: Order,
    channels: Path,
    rate: float | None,
    seconds: float | None,
    start: datetime | None,
    calm: bool,
) -> None:
    """Write bursts, and change cells of the history that is there."""
    plan = plan_fleet(ships, seed=seed, order=order, channel_folder=channels)
    load = _live_load(dsn, plan, rate, start, CALM if calm else Mix())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: load.request_stop())
    load.start().wait(seconds)
    click.echo(load.stop().to_json())


def _live_load(dsn: str, plan: FleetPlan, rate: float | None, start: datetime | None, mix: Mix) -> LiveLoad:
    with fleet_session(dsn) as conn:
        span = written_span(conn)
    following = span[1] + timedelta(minutes=1) if span else datetime.now(UTC)
    pace = plan.rows_per_second if rate is None else rate or math.inf
    return LiveLoad(dsn, plan, start=start or following, history=span, rows_per_second=pace, mix=mix)


def main() -> None:
    """Run the command; what a person can mend is said in one line."""
    try:
        fleet(prog_name="python -m devstack.fleet")
    except WideTableError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
