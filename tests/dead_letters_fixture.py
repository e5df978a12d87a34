"""The fixtures of `tests.dead_letters_world`: a pytest plugin of the modules that test `dead-letters`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdc_consumer.cli import cli
from tests.dead_letters_world import HAND_OFF, FakeRegistry, Run
from tests.writer_world import WriterWorld
from widetable import command_line
from widetable.hand_off import write_hand_off


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    """A registry that has lost the schema of the values."""
    fake = FakeRegistry()
    with fake.serving() as url:
        monkeypatch.setenv("CDC_REGISTRY__URL", url)
        yield fake


@pytest.fixture
def world(own_world: WriterWorld) -> WriterWorld:
    """A target with a hand-off."""
    write_hand_off(own_world.conn, HAND_OFF)
    return own_world


@pytest.fixture
def run(
    world: WriterWorld,
    registry: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs `cdc-consumer dead-letters …`; returns exit code, stdout and stderr."""
    del registry  # it is the environment that names it
    environment = {
        "CDC_PIPELINE__NAME": "test",
        "CDC_SOURCE__DSN": "postgresql://nobody@127.0.0.1:1/none",
        "CDC_TARGET__DSN": world.settings.dsn.get_secret_value(),
        "CDC_TARGET__WIDE_SCHEMA": world.settings.wide_schema,
        "CDC_TARGET__CONTROL_SCHEMA": world.settings.control_schema,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = command_line.exit_code(cli, arguments=["dead-letters", *map(str, arguments)])
        return code, *capsys.readouterr()

    return command
