"""`python -m devstack`: the real chain for a developer, in `.devstack/` or where DEVSTACK_HOME says.

Exit codes: 0 done, 1 not running (status), 3 the machine lacks something or a server did not start.
"""

import shlex
import signal
import sys
import time
from os import environ
from pathlib import Path

import click

from devstack.errors import DevstackError
from devstack.stack import PORTS_FILE, Stack

CONFIGURATION_EXIT_CODE = 3


def home() -> Path:
    """The folder of the developer's chain."""
    return Path(environ.get("DEVSTACK_HOME", ".devstack"))


@click.group()
def main() -> None:
    """Run PostgreSQL, Kafka, the schema registry and Connect on this machine, without containers."""
    # A supervisor's SIGTERM stops a half-started chain as Ctrl+C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@main.command()
def up() -> None:
    """Start what does not run yet, wait until it answers, print where it is."""
    began = time.monotonic()
    stack = Stack(home(), detached=True)
    stack.up(click.echo)
    click.echo(f"the chain is up after {time.monotonic() - began:.0f} s\n")
    _print_table(stack)


@main.command()
@click.option("--keep-data", is_flag=True, help="Keep data, logs and ports for the next `up`.")
def down(*, keep_data: bool) -> None:
    """Stop everything; data, logs and ports go too unless told otherwise."""
    stack = Stack(home())
    if keep_data:
        stack.stop()
    else:
        stack.wipe()
    click.echo("the chain is down")


@main.command()
def wipe() -> None:
    """Stop everything and remove data, logs and ports, also those that `down --keep-data` kept."""
    Stack(home()).wipe()
    click.echo("the chain is down and its data removed")


@main.command()
def status() -> None:
    """Show each server; exit 0 only if all of them run."""
    if not (home() / PORTS_FILE).exists():
        click.echo(f"there is no chain in {home()}: python -m devstack up")
        sys.exit(1)
    stack = Stack(home())
    _print_table(stack)
    if not stack.running:
        sys.exit(1)


@main.command()
def env() -> None:
    """Print `export` lines with the product's settings; use as: eval "$(python -m devstack env)"."""
    stack = Stack(home())
    if not stack.running:
        raise DevstackError("the chain does not run: python -m devstack up")
    for name, value in stack.environment().items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _print_table(stack: Stack) -> None:
    places = (stack.postgres.dsn("source"), stack.kafka.bootstrap, stack.registry.url, stack.connect.url)
    for service, place in zip(stack.services, places, strict=True):
        state = f"pid {service.pid}" if service.pid else "down"
        click.echo(f"{service.name:<10}{state:<13}{place:<62}{service.log_path}")


if __name__ == "__main__":
    try:
        main()
    except DevstackError as error:
        click.echo(f"devstack: {error}", err=True)
        sys.exit(CONFIGURATION_EXIT_CODE)
