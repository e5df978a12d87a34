"""SIGTERM in every state of `cdc-consumer run`: it ends within its grace period, and nothing is lost."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import conninfo

from cdc_consumer.app import GOVERN_EVERY_S
from devstack.product import Process, Product
from devstack.stack import Stack
from tests.pipeline_world import Pipeline, opened, pipeline_settings, wait_for
from tests.tcp_proxy import TcpProxy
from widetable.control import use_control

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(600)]

SHUTDOWN_S = 8.0
SLACK_S = 12.0
"""For interpreters that start and end on a busy machine."""


@pytest.fixture
def streaming(stack: Stack, source_dsn: str, target_dsn: str) -> Iterator[Pipeline]:
    """A pipeline after `init`."""
    with opened(pipeline_settings(stack, source_dsn, target_dsn)) as pipeline:
        pipeline.init()
        yield pipeline


@pytest.fixture
def product(stack: Stack, streaming: Pipeline, tmp_path: Path) -> Iterator[Product]:
    """The programs on a pipeline that streams, with tables and a few samples."""
    pipeline = streaming
    settings = pipeline.settings
    product = Product(
        {
            **stack.environment(),
            "CDC_PIPELINE__NAME": pipeline.name,
            "CDC_SOURCE__DSN": settings.source.dsn.get_secret_value(),
            "CDC_TARGET__DSN": settings.target.dsn.get_secret_value(),
            "CDC_CONSUMER__SHUTDOWN_S": str(SHUTDOWN_S),
            "CDC_CONSUMER__HTTP_PORT": "0",
            "CDC_LOG__FORMAT": "json",
        },
        tmp_path,
    )
    yield product
    product.kill_started()


def says(process: Process, text: str) -> Callable[[], bool]:
    """Whether its log has the text since it was asked for."""
    start = len(process.log.read_text())
    return lambda: text in process.log.read_text()[start:]


def end(process: Process) -> int:
    """SIGTERM; how it ended. It must be in time, and leave no process behind."""
    family = process.family()
    sent = time.monotonic()
    code = process.terminate()
    assert time.monotonic() - sent < SHUTDOWN_S + SLACK_S, process.log.read_text()[-2_000:]
    wait_for(lambda: not any(member.is_running() for member in family), "a process was left behind")
    return code


def test_sigterm_ends_the_consumer_in_every_state(
    product: Product, streaming: Pipeline, stack: Stack
) -> None:
    """Starting, waiting for either server, busy, in an outage of either, idle; nothing is lost on the way."""
    streaming.insert(0, 8)
    assert product.run("cdc-consumer", "schema", "apply", quiet=True).returncode == 0

    # Starting: before anything is begun, the interpreter's own end will do.
    assert end(product.start("cdc-consumer", "run")) in {0, -signal.SIGTERM}

    # Waiting for a broker that takes the connection and does not answer.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        waiting = product.start("cdc-consumer", "run", environment={"CDC_KAFKA__BOOTSTRAP_SERVERS": address})
        silent.settimeout(60)
        silent.accept()
        assert end(waiting) in {0, -signal.SIGTERM}

    target = conninfo.conninfo_to_dict(product.environment["CDC_TARGET__DSN"])
    with TcpProxy(str(target["host"]), int(str(target["port"]))) as proxy:
        through = {
            "CDC_TARGET__DSN": conninfo.make_conninfo(
                "", **{**target, "host": "127.0.0.1", "port": proxy.port}
            ),
            "CDC_TARGET__CONNECT_TIMEOUT_S": "60",
        }
        # Waiting for a database that takes the connection and does not answer.
        proxy.flow.clear()
        with proxy.next_connection():
            waiting = product.start("cdc-consumer", "run", environment=through)
        assert end(waiting) in {0, -signal.SIGTERM}

        # Busy; then in the midst of an outage, when all sessions hang.
        proxy.flow.set()
        run = product.start("cdc-consumer", "run", environment=through)
        wait_for(says(run, '"claimed"'), "the consumer works")
        streaming.insert(8, 5_000)
        assert end(run) == 0
        run = product.start("cdc-consumer", "run", environment=through)
        wait_for(says(run, '"claimed"'), "the consumer works again")
        proxy.flow.clear()
        streaming.insert(5_008, 1_000)
        time.sleep(GOVERN_EVERY_S + 1)  # each chore of the parent has begun, and hangs
        assert end(run) == 0

    # In an outage of Kafka: the worker can't leave its group.
    run = product.start("cdc-consumer", "run")
    wait_for(says(run, '"claimed"'), "the consumer works")
    stack.kafka.pause()
    try:
        assert end(run) == 0
    finally:
        stack.kafka.resume()

    # Idle: nothing was lost on the way.
    run = product.start("cdc-consumer", "run")
    wait_for(lambda: samples(streaming) == 6_008, "the last run goes on to the last sample")
    assert end(run) == 0
    assert "Traceback" not in run.log.read_text()


def samples(pipeline: Pipeline) -> int:
    """Samples that are in the wide tables or wait in overflow; each has a moment of its own."""
    find = (
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE tablename LIKE 'tbl_data_timeseries_ship%'"
    )
    places = [name for (name,) in pipeline.target.execute(find).fetchall()]
    counts = " UNION ALL ".join(f"SELECT count(*) FROM {place}" for place in ["overflow_cell", *places])
    use_control(pipeline.target, pipeline.settings.target.control_schema)
    row = pipeline.target.execute(f"SELECT sum(count) FROM ({counts})".encode()).fetchone()
    return int(row[0]) if row else 0
