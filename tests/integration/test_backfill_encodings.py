"""Databases that lose texts are refused before anything is made or copied; LATIN1 sources lose none."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest
from psycopg import sql

from cdc_consumer.deployment import Deployment
from cdc_consumer.init import require_fit
from cdc_consumer.preflight import check
from cdc_consumer.settings import load_settings
from devstack.databases import NARROW_SQL, Server
from tests.backfill_world import SHIPS, START, World
from widetable import control
from widetable.control import has_control, migrate
from widetable.errors import ConfigurationError, ExitCode
from widetable.postgres import connect_source, connect_target
from widetable.settings import SourceSettings, TargetSettings

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

NO_CHARACTERS = "the source database's encoding is SQL_ASCII"
TOO_FEW = "the target database's encoding is LATIN1"
CREATE = "CREATE DATABASE {} ENCODING {} TEMPLATE template0 LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"


@contextmanager
def database(server: Server, encoding: str, *, narrow: bool = False) -> Iterator[str]:
    """A database of some encoding; gives its DSN."""
    name = f"encoding_{secrets.token_hex(6)}"
    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL(CREATE).format(sql.Identifier(name), sql.Literal(encoding)))
    try:
        if narrow:
            with psycopg.connect(server.dsn(name)) as conn:
                conn.execute(NARROW_SQL.encode())
        yield server.dsn(name)
    finally:
        server.drop_database(name)


def checked(source_dsn: str, target_dsn: str, name: str) -> tuple[str, str]:
    """What `check` says of one of the databases."""
    nowhere = "127.0.0.1:1"
    settings = load_settings(
        {
            "CDC_SOURCE__DSN": source_dsn,
            "CDC_TARGET__DSN": target_dsn,
            "CDC_KAFKA__BOOTSTRAP_SERVERS": nowhere,
            "CDC_KAFKA__REQUEST_TIMEOUT_S": "0.5",
            "CDC_REGISTRY__URL": f"http://{nowhere}",
            "CDC_CONNECT__URL": f"http://{nowhere}",
        }
    )
    return next((result.status, result.text) for result in check(settings) if result.check == name)


def test_a_source_whose_bytes_may_be_any_characters_is_refused(
    world: World,
    source_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SQL_ASCII: `check` and `backfill plan` say so, and `init` before it makes anything."""
    with database(source_server, "SQL_ASCII", narrow=True) as dsn:
        status, text = checked(dsn, world.target_dsn, "source database")
        assert status == "bad"
        assert NO_CHARACTERS in text
        settings = SourceSettings.model_validate({"dsn": dsn})
        with closing(connect_source(settings, "test")) as source:
            deployment = SimpleNamespace(settings=world.settings(), source=source, target=world.target)
            with pytest.raises(ConfigurationError, match=NO_CHARACTERS):
                require_fit(cast("Deployment", deployment))
        monkeypatch.setenv("CDC_SOURCE__DSN", dsn)
        assert world.backfill("run", "--no-handoff") == ExitCode.CONFIGURATION
        assert NO_CHARACTERS in capsys.readouterr().err
        assert world.one("SELECT count(*) FROM plan") == 0


def test_a_target_that_can_not_hold_every_text_is_refused(
    world: World,
    target_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the control schema is made in it; and where an earlier version made it, before anything is copied."""
    with database(target_server, "LATIN1") as dsn:
        status, text = checked(world.source_dsn, dsn, "target database")
        assert status == "bad"
        assert TOO_FEW in text
        settings = TargetSettings.model_validate({"dsn": dsn})
        with closing(connect_target(settings, "test")) as target:
            with pytest.raises(ConfigurationError, match=TOO_FEW):
                migrate(target, settings.control_schema)
            assert not has_control(target, settings.control_schema)
            with monkeypatch.context() as patch:
                patch.setattr(control, "require_target_encoding", lambda _conn: None)
                migrate(target, settings.control_schema)
            deployment = SimpleNamespace(settings=world.settings(), source=world.source, target=target)
            with pytest.raises(ConfigurationError, match=TOO_FEW):
                require_fit(cast("Deployment", deployment))
        monkeypatch.setenv("CDC_TARGET__DSN", dsn)
        assert world.backfill("run", "--no-handoff") == ExitCode.CONFIGURATION
        assert TOO_FEW in capsys.readouterr().err


def test_texts_of_a_latin1_source_arrive(
    world: World, source_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL says them in UTF-8."""
    with database(source_server, "LATIN1", narrow=True) as dsn:
        with psycopg.connect(dsn) as source:
            source.execute(
                "INSERT INTO tenant.tbl_data_timeseries"
                " (ship_id, data_channel_id, created_time, value_format, str_v) VALUES (%s, %s, %s, 'String', %s)",
                [SHIPS[0], "nav/1", START, "Öl über 40 °C"],
            )
        monkeypatch.setenv("CDC_SOURCE__DSN", dsn)
        assert world.backfill("run", "--no-handoff") == ExitCode.DONE
    assert world.wide_cells() == {(SHIPS[0], START, "nav/1"): "Öl über 40 °C"}
