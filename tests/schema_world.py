"""The `schema` commands as a person runs them, and a source to run them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc_consumer.schema_commands import schema
from widetable import command_line
from widetable.channel_map import read_channel_lists
from widetable.narrow import FORMATS, VALUE_COLUMNS
from widetable.postgres import Connection

Run = Callable[..., tuple[int, str, str]]
AUXILIARY, ENGINE, NAVIGATION = (part.channel_ids for part in read_channel_lists())


def schema_runner(
    source_dsn: str, target_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a `schema` command on these databases; returns exit code, stdout and stderr."""
    monkeypatch.setenv("CDC_SOURCE__DSN", source_dsn)
    monkeypatch.setenv("CDC_TARGET__DSN", target_dsn)

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = command_line.exit_code(schema, arguments=[str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return command


def insert(
    source: psycopg.Connection,
    ship: str,
    channel: str,
    value: Any,
    form: str | None = "Decimal",
    age: str = "0",
) -> None:
    """One sample, `age` (an interval) before now; the value column follows the format."""
    column = VALUE_COLUMNS[FORMATS.index(form)] if form in FORMATS else "double_v"
    source.execute(
        f"INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, {column})"
        f" VALUES (%s, %s, now()::timestamp - %s::interval, %s, %s)".encode(),
        [ship, channel, age, form, value],
    )


def small_lists(folder: Path, *engine: str) -> Path:
    """Lists with one channel per system, and these in the engine's."""
    lists = {"auxiliary_systems": ["/v1/ab01//x"], "engine_generator": ["/v1/me01//x", *engine]}
    for name, channels in {**lists, "navigation_ship": ["/v1/vdr//x"]}.items():
        (folder / f"{name}.txt").write_text("\n".join(channels))
    return folder


def wide_tables(conn: Connection) -> list[str]:
    """Names of the wide tables."""
    query = "SELECT relname FROM pg_class WHERE relname LIKE 'tbl_data%' AND relkind = 'r' ORDER BY 1"
    return [name for (name,) in conn.execute(query)]
