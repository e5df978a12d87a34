"""Sessions on both databases, and the `schema` commands, for the tests of what they make."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.schema_world import Run, schema_runner
from widetable.control import use_control
from widetable.postgres import Connection, connect_target
from widetable.settings import TargetSettings


@pytest.fixture
def source(source_dsn: str) -> Iterator[psycopg.Connection]:
    """A session on the source database."""
    with psycopg.connect(source_dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def target(target_dsn: str) -> Iterator[Connection]:
    """A session on the target that uses the control schema once there is one."""
    with connect_target(TargetSettings(dsn=target_dsn), "test") as conn:
        use_control(conn, "cdc")
        yield conn


@pytest.fixture
def run(
    source_dsn: str, target_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a `schema` command; returns exit code, stdout and stderr."""
    return schema_runner(source_dsn, target_dsn, monkeypatch, capsys)
