"""Makes the pages that repeat what the code says: `python docs/generate.py settings > docs/settings.md`.

In: the settings models, the click commands, and the catalogue of metrics. Out: one page on stdout, `settings`,
`commands` or `metrics`. A test holds the pages equal to this output.
"""
# ruff: noqa: INP001 - a script that lives beside the pages that it makes

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Final, Literal, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from backfill.cli import commands as backfill
from backfill.settings import Settings as BackfillSettings
from cdc_consumer.catalogue import CATALOGUE
from cdc_consumer.cli import cli as cdc_consumer
from cdc_consumer.settings import Settings as ConsumerSettings
from widetable.environment import variables

MADE: Final = "<!-- Made by docs/generate.py from the code; don't edit. -->"
MODELS: Final[dict[str, type[BaseModel]]] = {"cdc-consumer": ConsumerSettings, "backfill": BackfillSettings}
PROGRAMS: Final = {"cdc-consumer": cdc_consumer, "backfill": backfill}
LIMITS: Final = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}

SETTINGS_HEAD: Final = f"""\
# Settings

{MADE}

Three layers, the later winning: a settings file (if `--config FILE` or `CDC_CONFIG` names one), the environment,
and the flags of a command. One set serves both programs: each leaves the other's sections alone.
`cdc-consumer config show` and `backfill config show` list every setting with its value, secrets masked, and where
it came from.

* A misspelt name is an error that names the nearest one; all problems are reported at once, each with the place
  that the value came from.
* Any variable may be given as `NAME_FILE` with the path of a file that holds the value: the way for secrets, such
  as `CDC_SOURCE__DSN_FILE=/run/secrets/source_dsn`. No message ever shows a value.
* An empty variable is as good as none.
* `CDC_KAFKA__EXTRA` takes JSON, or one variable for each key: `CDC_KAFKA__EXTRA__SECURITY_PROTOCOL=SASL_SSL` is
  librdkafka's `security.protocol`. `CDC_CONNECT__EXTRA` takes JSON:
  `CDC_CONNECT__EXTRA='{{"database.sslmode": "require"}}'`.

The settings file is TOML. A section is a table, and a setting is a key in it, in lower case; `…_file` names a file
that holds the value, here too:

```toml
[source]
dsn_file = "/run/secrets/source_dsn"

[target]
dsn = "postgresql://writer@wide.example/ships"      # the password from PGPASSFILE

[kafka]
bootstrap_servers = "kafka1.example:9092,kafka2.example:9092"
extra = {{ security.protocol = "SASL_SSL" }}

[topic]
partitions = 12

[log]
file = "/var/log/cdc/consumer.log"
```
"""
COMMANDS_HEAD: Final = f"""\
# Commands

{MADE}

Every command answers on stdout, and logs, progress and errors go to stderr. Exit codes:
[operations](operations.md#exit-codes). Where everything is, both programs learn from the environment:
[settings](settings.md).
"""
METRICS_HEAD: Final = f"""\
# Metrics

{MADE}

`cdc-consumer run` serves them under `/metrics`. A counter counts since the program started and begins anew with
it. A metric that could not be read (the source is away, say) is absent rather than old. No metric has a label per
ship or channel.

Several instances of one pipeline: counters, lag and rows held are each instance's own, so add them up; what is
known of the source, of Kafka Connect and of the target (slot, connector, overflow, dead cells, slices, verified) is
told by each of them alike: take the largest. The alerts and dashboards of `deploy` do so.
"""


# -- settings -----------------------------------------------------------------------------------------------


def settings_page() -> str:
    """All settings, section by section."""
    names = dict.fromkeys(name for model in MODELS.values() for name in model.model_fields)
    return "\n".join([SETTINGS_HEAD, *(line for name in names for line in _section(name))])


def _section(name: str) -> Iterator[str]:
    readers = [program for program, model in MODELS.items() if name in model.model_fields]
    model = MODELS[readers[0]].model_fields[name].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(f"section {name} is no model")
    summary = (model.__doc__ or "").strip().splitlines()[0]
    yield f"## {name}"
    yield ""
    yield f"{summary} Read by {' and '.join(f'`{program}`' for program in readers)}."
    yield ""
    yield from ("| variable | default | allowed | meaning |", "|---|---|---|---|")
    yield from (_setting(setting, field) for setting, field in variables(model, (name,)))
    yield ""


def _setting(setting: str, field: FieldInfo) -> str:
    return _row(f"`{setting}`", _default(field), _allowed(field), field.description or "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    default = field.get_default()
    return "" if default in (None, PydanticUndefined, {}) else f"`{default}`"


def _allowed(field: FieldInfo) -> str:
    """Choices of a literal, else the numeric limits."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    found = [
        f"{sign} {getattr(part, name):,}"
        for part in field.metadata
        for name, sign in LIMITS.items()
        if getattr(part, name, None) is not None
    ]
    return ", ".join(found)


# -- commands -----------------------------------------------------------------------------------------------


def commands_page() -> str:
    """All commands with their options."""
    lines = [line for name, program in PROGRAMS.items() for line in _command(program, name)]
    return "\n".join([COMMANDS_HEAD, *lines])


def _command(command: click.Command, name: str) -> Iterator[str]:
    """A command with what is below it; groups have no section of their own but the programs."""
    if isinstance(command, click.Group):
        if " " not in name:
            yield from (f"## {name}", "", *_help(command), "")
            yield from ("Every command takes these, before or after its name:", "")
            yield from _table(_options_of(command))
        for part, below in command.commands.items():
            yield from _command(below, f"{name} {part}")
        return
    yield from (f"### {name}", "", *_help(command), "")
    options = _options_of(command)
    if options:
        yield from _table(options)


def _options_of(command: click.Command) -> list[click.Option]:
    """The options of a command alone: those that all commands take stand at the program."""
    parts = [part for part in command.params if isinstance(part, click.Option)]
    return [part for part in parts if not part.hidden and "--version" not in part.opts]


def _table(options: list[click.Option]) -> Iterator[str]:
    yield from ("| option | default | meaning |", "|---|---|---|")
    yield from map(_option, options)
    yield ""


def _help(command: click.Command) -> list[str]:
    """The help text as Markdown: each paragraph on a line."""
    paragraphs = (command.help or "").split("\n\n")
    return "\n\n".join(" ".join(part.replace("\b", "").split()) for part in paragraphs).splitlines()


def _option(option: click.Option) -> str:
    names = " / ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    values = option.type.choices if isinstance(option.type, click.Choice) else ()
    choice = f" {', '.join(f'`{value}`' for value in values)}" if values else ""
    shown = not option.is_flag and isinstance(option.default, str | int | float)
    return _row(names + choice, f"`{option.default}`" if shown else "", option.help or "")


# -- metrics ------------------------------------------------------------------------------------------------


def metrics_page() -> str:
    """The catalogue as a table."""
    lines = [METRICS_HEAD, "| metric | kind | unit | meaning |", "|---|---|---|---|"]
    for entry in CATALOGUE.values():
        label = f"{{{entry.label}}}" if entry.label else ""
        lines.append(_row(f"`{entry.name}{label}`", entry.kind, entry.unit, entry.help))
    return "\n".join([*lines, ""])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings": settings_page,
    "commands": commands_page,
    "metrics": metrics_page,
}

if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
