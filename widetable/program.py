"""A program of this project: a click group whose commands all take the same options for settings.

In: `--config FILE` and `--log-file FILE`, before or after the command's name. Out: what was given, for
`widetable.environment.load` to put on top of the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

META_CONFIG: Final = "widetable.config"
META_OVERRIDES: Final = "widetable.overrides"


class Program(click.Group):
    """The group; what is added to it takes the options, too, without listing them once more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_options(hidden=False))

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, or a group with its commands."""
        _accept_options(cmd)
        super().add_command(cmd, name)


def given_config() -> str | None:
    """The file of settings that the command line names, if any."""
    context = click.get_current_context(silent=True)
    return context.meta.get(META_CONFIG) if context else None


def given_overrides() -> dict[str, dict[str, object]]:
    """The settings, by section, that options of every command give."""
    context = click.get_current_context(silent=True)
    return context.meta.get(META_OVERRIDES, {}) if context else {}


def _accept_options(command: click.Command) -> None:
    taken = {name for option in command.params for name in option.opts}
    command.params.extend(option for option in _options(hidden=True) if not taken & set(option.opts))
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _accept_options(below)


def _options(*, hidden: bool) -> list[click.Option]:
    path = click.Path(dir_okay=False, path_type=Path)
    return [
        click.Option(
            ["--config"],
            type=path,
            metavar="FILE",
            expose_value=False,
            hidden=hidden,
            callback=_keep_config,
            help="Settings file (TOML), below the environment; default: the one that CDC_CONFIG names.",
        ),
        click.Option(
            ["--log-file"],
            type=path,
            metavar="FILE",
            expose_value=False,
            hidden=hidden,
            callback=_keep_log_file,
            help="Write logs to this file, too (CDC_LOG__FILE).",
        ),
    ]


def _keep_config(context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.meta[META_CONFIG] = str(value)


def _keep_log_file(context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.meta[META_OVERRIDES] = {"log": {"file": str(value)}}
