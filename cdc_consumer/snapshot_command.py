"""The command `cdc-consumer snapshot`."""

from __future__ import annotations

import click

from cdc_consumer.settings import command_settings
from cdc_consumer.snapshot import give_up
from cdc_consumer.snapshot import snapshot as send_history


@click.command()
@click.option(
    "--timeout",
    "wait_s",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Seconds to wait for another command on this pipeline.",
)
@click.option("--detach", is_flag=True, help="Start it, and don't wait for its end.")
@click.option("--remove", is_flag=True, help="Give it up: what it has sent stays.")
def snapshot(*, wait_s: float, detach: bool, remove: bool) -> None:
    """Send all of history through Kafka, beside the stream: in place of `backfill run`, and slower.

    Interrupted, it goes on by itself; run again, the command waits for its end, and tidies up.
    """
    settings = command_settings()
    if remove:
        give_up(settings, wait_s=wait_s, report=click.echo)
        return
    send_history(settings, wait_s=wait_s, detach=detach, report=click.echo)
