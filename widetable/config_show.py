"""`config show`: every setting, its value with secrets masked, and where it came from.

In: loaded settings. Out: rows, as text or JSON. Guarantee: no password is shown, whichever setting it is in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import psycopg
from psycopg import conninfo
from pydantic import SecretStr

from widetable.environment import Loaded, S, paths, variable
from widetable.masking import MASK, masked

PASSWORDS: Final = ("password", "sslpassword")


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting: its variable, the key in a file, its value with secrets masked, and where that is from."""

    setting: str
    key: str
    value: Any
    origin: str


def shown(loaded: Loaded[S]) -> list[Shown]:
    """All settings, section by section."""
    rows = []
    for path in paths(type(loaded.settings)):
        section, name = path
        value = getattr(getattr(loaded.settings, section), name)
        rows.append(Shown(variable(*path), ".".join(path), _value(name, value), loaded.origin(*path)))
    return rows


def text(rows: list[Shown]) -> str:
    """The settings as a table for people."""
    cells = [(row.setting, _plain(row.value), row.origin) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {place}" for name, value, place in cells)


def config_command(load: Callable[[], Loaded[Any]]) -> click.Group:
    """The group `config` of a program whose settings `load` reads."""

    @click.group()
    def config() -> None:
        """Look at the settings."""

    @config.command("show")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def show(*, as_json: bool) -> None:
        """Show every setting, its value with secrets masked, and where it came from."""
        rows = shown(load())
        click.echo(json.dumps([_row(row) for row in rows], indent=2) if as_json else text(rows))

    return config


def _row(row: Shown) -> dict[str, Any]:
    return {"setting": row.setting, "key": row.key, "value": row.value, "from": row.origin}


def _value(name: str, value: Any) -> Any:
    match value:
        case SecretStr() if name.endswith("dsn"):
            return _dsn(value.get_secret_value())
        case SecretStr():
            return MASK
        case dict():
            return {
                key: MASK if isinstance(inner, SecretStr) else masked({key: inner})[key]
                for key, inner in value.items()
            }
        case Path():
            return str(value)
    return masked(value)


def _dsn(dsn: str) -> str:
    """A connection string in keywords, without its passwords; one that PostgreSQL can't read is all masked."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return MASK
    if "@" in str(parts.get("host", "")):  # the rest of a password with an @ in it
        return MASK
    parts.update({name: MASK for name in PASSWORDS if parts.get(name)})
    return conninfo.make_conninfo("", **parts)


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "-"
    return json.dumps(value) if isinstance(value, dict) else str(value)
