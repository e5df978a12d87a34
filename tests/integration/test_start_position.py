"""Why `init` stores a position before the connector's first start, with the control that shows the loss."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cdc_consumer import init as init_module
from cdc_consumer import registration
from cdc_consumer.connect import Connect
from cdc_consumer.connector import render
from cdc_consumer.deployment import Deployment
from tests.pipeline_world import Pipeline, wait_for
from widetable.hand_off import HandOff
from widetable.lsn import parse_lsn

pytest_plugins = ["tests.pipeline_fixture"]
pytestmark = pytest.mark.stack

BUSYWORK_ROWS = 300_000
"""Changes of another table that the server decodes first: time to pause it before it sends anything."""


@pytest.mark.parametrize(
    ("positioned", "arrived"),
    [
        pytest.param(True, 100, id="with a position, nothing is lost"),
        pytest.param(False, 0, id="control: without one, all of it is"),
    ],
)
def test_a_restart_before_the_first_commit_loses_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, positioned: bool, arrived: int
) -> None:
    """A connector without a position stores where the server is now, and resumes there after a restart."""
    committed = 0

    def start_and_restart(deployment: Deployment, hand_off: HandOff, slot: Any, *_: Any) -> None:
        nonlocal committed
        pipeline.source.execute(
            "CREATE TABLE busywork AS SELECT n, md5(n::text) FROM generate_series(1, %s) n", [BUSYWORK_ROWS]
        )
        pipeline.insert(1, 100)
        committed = wal_position(pipeline)
        connect, connector = deployment.connect, render(pipeline.settings, hand_off.placeholder)
        connect.create_stopped(connector.name, connector.config)
        if positioned:
            registration._set_start(pipeline.settings, hand_off, connect, slot)
        connect.resume(connector.name)
        with paused_sender(pipeline):
            wait_for(lambda: connect.stored_offset(connector.name) is not None, "no position was stored")
            assert pipeline.events() == 0
            restart(connect, connector.name)

    monkeypatch.setattr(init_module, "register", start_and_restart)
    pipeline.init()
    wait_for(lambda: stored_commit(pipeline) > committed, "the connector did not get past the changes")
    assert pipeline.events() == arrived


@contextmanager
def paused_sender(pipeline: Pipeline) -> Iterator[None]:
    """The slot's server process stands still, as if it had a very large transaction to decode."""
    wait_for(lambda: pipeline.reader_pid() is not None, "nobody reads the slot")
    pid = pipeline.reader_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wal_position(pipeline: Pipeline) -> int:
    """Where the source's WAL ends."""
    row = pipeline.source.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row is not None
    return parse_lsn(row[0])


def stored_commit(pipeline: Pipeline) -> int:
    """The last commit in the connector's stored position; 0 before the first."""
    with pipeline.connect() as connect:
        stored = connect.stored_offset(pipeline.name)
    return (stored.lsn_commit or 0) if stored else 0


def restart(connect: Connect, name: str) -> None:
    """Restart connector and task, as a rebalance of the workers would."""
    connect._request("POST", f"/connectors/{name}/restart?includeTasks=true")
