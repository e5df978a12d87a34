"""The `cdc-consumer` command: one subcommand per task of an operator, settings from the environment.

In: a command line and `CDC_` variables. Out: answers on stdout, logs and errors on stderr, and an exit code that
tells a supervisor whether starting again makes sense (`widetable.errors.ExitCode`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final, NoReturn

import click
from confluent_kafka import KafkaException

from cdc_consumer import app, preflight
from cdc_consumer.dead_letters_commands import dead_letters
from cdc_consumer.init import init as make_hand_off
from cdc_consumer.logs_command import logs as show_logs
from cdc_consumer.reinit import diagnose
from cdc_consumer.reinit import reinit as begin_anew
from cdc_consumer.repartition import repartition as raise_partitions
from cdc_consumer.schema_commands import schema
from cdc_consumer.settings import Settings, command_settings
from cdc_consumer.snapshot_command import snapshot
from cdc_consumer.status import Lookout
from cdc_consumer.teardown import teardown as give_up
from cdc_consumer.topic import kafka_error
from cdc_consumer.truncate import pass_truncate
from widetable import command_line
from widetable.config_show import config_command
from widetable.environment import load_with_origins, reference
from widetable.errors import WideTableError
from widetable.program import Program
from widetable.state_text import lines
from widetable.watching import show, watch_options

WAIT: Final = click.option(
    "--timeout",
    "wait_s",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Seconds to wait for open transactions, and for the connector, each.",
)
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
MARKS: Final = {"ok": "ok", "warning": "WARNING", "bad": "BAD", "unknown": "unknown"}


AFTER_A_GAP: Final = (
    "What changed at the source in between is in no stream: run `backfill verify --repair`, over all ships and"
    " times. Consumers that run start again by themselves; others need `cdc-consumer run`"
)
AFTER_TRUNCATE: Final = (
    "The wide tables hold what they held. To keep it: `cdc-consumer run`. To make them what the source is:"
    " `cdc-consumer reinit --force`, `cdc-consumer run`, then `backfill verify --repair`"
)
HELP: Final = """Keep wide tables in step with a narrow table, live, through Debezium and Kafka.

In this order: schema plan, schema apply, init, run. `check` tells what is missing, `status` where the
stream stands.

\b
Exit codes: 0 done, 1 bug, 2 usage, 3 configuration, 4 something does not answer,
5 partly done, 6 stopped for a person.
"""
SETTINGS: Final = "\b\nSettings (environment variables; ..._FILE names a file that holds the value):\n"


@click.group(cls=Program, help=HELP, epilog=SETTINGS + reference(Settings))
@click.version_option(package_name="narrow-to-wide")
def cli() -> None:
    """Hold the subcommands."""


cli.add_command(config_command(lambda: load_with_origins(Settings)))
cli.add_command(schema)
cli.add_command(dead_letters)
cli.add_command(show_logs)
cli.add_command(snapshot)


@cli.command()
@WAIT
def init(wait_s: float) -> None:
    """Make the hand-off: topic, publication, slot, barrier, connector. Run again, it changes nothing."""
    settings = _settings()
    changes: list[str] = []

    def report(change: str) -> None:
        changes.append(change)
        click.echo(change)

    hand_off = make_hand_off(settings, wait_s=wait_s, report=report)
    state = "is in place" if changes else "is healthy, nothing to do"
    click.echo(f"hand-off of pipeline {hand_off.pipeline}, epoch {hand_off.epoch}, {state}")


@cli.command()
@WAIT
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--without-connect", is_flag=True, help="Leave Kafka Connect alone: it is gone for good.")
@click.option("--without-target", is_flag=True, help="Leave the target alone: it is lost.")
def teardown(*, wait_s: float, yes: bool, without_connect: bool, without_target: bool) -> None:
    """Give the stream up: remove connector, slot, publication and heartbeat table. All data stays.

    Changes made afterwards are not in the stream of a later `init`.
    """
    settings = _settings()
    if not yes:
        name = settings.pipeline.name
        _confirm("teardown", f"Remove connector, slot and publication of pipeline {name}?")
    give_up(
        settings,
        wait_s=wait_s,
        with_connect=not without_connect,
        with_target=not without_target,
        report=click.echo,
    )
    click.echo(f"pipeline {settings.pipeline.name} streams no more; `cdc-consumer init` begins a new epoch")


@cli.command()
@WAIT
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--force", is_flag=True, help="Begin a new epoch although the stream is whole.")
def reinit(*, wait_s: float, yes: bool, force: bool) -> None:
    """Begin a new epoch after a break: a lost slot, topic or publication, another cluster or timeline.

    Says what is broken first; where nothing is, changes nothing. What changed at the source in between is in no
    stream: `backfill verify --repair` must follow.
    """
    settings = _settings()
    problem = diagnose(settings)
    click.echo(f"broken: {problem}" if problem else "nothing is broken")
    if (problem or force) and not yes:
        _confirm("reinit", f"Drop the slot of pipeline {settings.pipeline.name} and begin a new epoch?")
    hand_off = begin_anew(settings, wait_s=wait_s, force=force, report=click.echo)
    if not problem and not force:
        click.echo(f"epoch {hand_off.epoch} of pipeline {hand_off.pipeline} is healthy, nothing to do")
        return
    click.echo(f"epoch {hand_off.epoch} of pipeline {hand_off.pipeline} streams. {AFTER_A_GAP}")


@cli.command()
@WAIT
@click.option("--partitions", type=click.IntRange(min=1), required=True, help="How many there shall be.")
def repartition(*, wait_s: float, partitions: int) -> None:
    """Raise the number of the topic's partitions, while consumers run. Kafka can't lower it.

    Also takes in partitions that were added in another way; `backfill verify --repair` must follow then.
    """
    settings = _settings()
    hand_off = raise_partitions(settings, partitions, wait_s=wait_s, report=click.echo)
    click.echo(
        f"pipeline {hand_off.pipeline} has {partitions} partitions: set CDC_TOPIC__PARTITIONS={partitions}"
    )
    if hand_off.verify_required:
        click.echo(f"{hand_off.verify_required}: run `backfill verify --repair`, over all ships and times")


@cli.command()
@WAIT
@click.option("--after-truncate", is_flag=True, required=True, help="Pass the TRUNCATE that stopped `run`.")
def resume(*, wait_s: float, after_truncate: bool) -> None:
    """Pass the record on which `run` stopped for a person, without applying it. `run` must not be running."""
    assert after_truncate  # noqa: S101 - the option is required: what is passed must be said
    pass_truncate(_settings(), wait_s=wait_s, report=click.echo)
    click.echo(AFTER_TRUNCATE)


@cli.command()
@JSON
@click.pass_context
def check(context: click.Context, *, as_json: bool) -> None:
    """Look at everything that must be right, and change nothing. Exits with 3 if something is bad."""
    settings = _settings()
    results = []
    for result in preflight.check(settings):
        results.append(result)
        if not as_json:
            click.echo(f"{MARKS[result.status]:<8} {result.check:<20} {result.text}")
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
    context.exit(preflight.exit_code(results))


@cli.command()
@watch_options
@JSON
def status(*, as_json: bool, watch: bool, interval: float) -> None:
    """Show where everything stands: connections, hand-off, slot, connector, lag, history, cells, ships."""
    with Lookout(_settings()) as lookout:
        show(
            lambda: _status(lookout, as_json, None if watch else 2),
            watch=watch,
            interval=interval,
            plain=as_json,
        )


def _status(lookout: Lookout, as_json: bool, indent: int | None) -> str:
    facts = lookout.look()
    return json.dumps(facts, indent=indent) if as_json else "\n".join(lines(facts))


@cli.command()
@click.option("--processes", type=click.IntRange(min=1), help="Consumer processes; each joins the group.")
@click.option("--hold-ms", type=click.IntRange(min=0), help="Hold a row until no cell came for so long.")
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the final counts here."
)
def run(*, processes: int | None, hold_ms: int | None, report: Path | None) -> None:
    """Write the stream to the wide tables until SIGTERM."""
    given = {"processes": processes, "hold_ms": hold_ms}
    app.run(_settings(**{name: value for name, value in given.items() if value is not None}), report)


def main() -> NoReturn:
    """Entry point of the program."""
    command_line.run(cli, _surprise)


def _settings(**consumer: object) -> Settings:
    return command_settings(consumer=consumer)


def _surprise(error: Exception) -> WideTableError | None:
    return kafka_error(error) if isinstance(error, KafkaException) else None


def _confirm(command: str, question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{command} asks before it removes; there is no terminal here, so add --yes")
    click.confirm(question, abort=True)
