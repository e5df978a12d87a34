"""`--watch`: an answer given again and again, in place on a terminal, block after block elsewhere.

In: a way to make the text. Out: the text on stdout, until Ctrl+C, which is how it is meant to end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

F = TypeVar("F", bound=Callable[..., Any])


def watch_options(command: F) -> F:
    """The flags `--watch` and `--interval`."""
    seconds = click.FloatRange(min=0.1)
    command = click.option("--interval", type=seconds, default=2.0, help="Seconds between two looks.")(
        command
    )
    return click.option("--watch", is_flag=True, help="Look again and again, until Ctrl+C.")(command)


def show(look: Callable[[], str], *, watch: bool, interval: float, plain: bool = False) -> None:
    """Print what `look` returns; with `watch` every `interval` seconds.

    Args:
        look: makes the text; errors of parts are part of it.
        watch: whether to go on until Ctrl+C.
        interval: seconds between two looks.
        plain: one look is one line for a machine: no frame around it, and never in place.
    """
    if not watch:
        click.echo(look())
        return
    try:
        if sys.stdout.isatty() and not plain:
            _in_place(look, interval)
        else:
            _blocks(look, interval, plain=plain)
    except KeyboardInterrupt:
        return


def _in_place(look: Callable[[], str], interval: float) -> None:
    with Live(console=Console(), screen=False, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            live.update(Text(f"{_now()}\n{look()}"), refresh=True)
            time.sleep(interval)


def _blocks(look: Callable[[], str], interval: float, *, plain: bool) -> None:
    while True:
        click.echo(look() if plain else f"-- {_now()}\n{look()}\n")
        time.sleep(interval)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
