"""The test chain itself: what it carries, what it keeps over a crash, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from struct import unpack

import fastavro
import httpx
import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Message
from psycopg.conninfo import conninfo_to_dict

from devstack.databases import Server
from devstack.postgres import Postgres
from devstack.pytest_plugin import fresh_database
from devstack.registry import Registry
from devstack.service import free_port
from devstack.stack import Stack

ROOT = Path(__file__).parents[2]
SAMPLE = """
    INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, double_v, value_format)
    VALUES ('SHIP1', 'engine/speed', '2026-01-01 00:00:00.5', 1.5, 'Decimal')
"""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Poll until the condition holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.05)


def devstack(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m devstack <command>` as a user would."""
    clean = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"}
    return subprocess.run(  # noqa: S603 - a fixed command
        [sys.executable, "-m", "devstack", command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean | environment,
    )


@contextmanager
def connector(stack: Stack, dsn: str, name: str) -> Iterator[None]:
    """A running Debezium connector on the narrow table of `dsn`, publishing under the prefix `name`."""
    source = conninfo_to_dict(dsn)
    url = f"{stack.connect.url}/connectors/{name}"
    config = {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": source["host"],
        "database.port": source["port"],
        "database.user": source["user"],
        "database.password": stack.connect.password_reference,
        "database.dbname": source["dbname"],
        "topic.prefix": name,
        "plugin.name": "pgoutput",
        "slot.name": name,
        "publication.name": "changes",
        "publication.autocreate.mode": "disabled",
        "snapshot.mode": "no_data",
        "table.include.list": "tenant.tbl_data_timeseries",
        "message.key.columns": "tenant.tbl_data_timeseries:ship_id",
        "time.precision.mode": "microseconds",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
    }
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE PUBLICATION changes FOR TABLE tenant.tbl_data_timeseries")
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    httpx.put(f"{url}/config", json=config, timeout=60).raise_for_status()
    try:
        yield
    finally:
        httpx.delete(url, timeout=60).raise_for_status()


def first_message(stack: Stack, topic: str) -> Message:
    """The first message of a one-partition topic, as soon as there is one."""
    client = {"bootstrap.servers": stack.kafka.bootstrap, "group.id": topic, "auto.offset.reset": "earliest"}
    consumer = Consumer(client)
    seen: list[Message] = []

    def arrived() -> bool:
        seen.extend(consumer.consume(1, timeout=1))
        return bool(seen)

    try:
        wait_until(lambda: topic in consumer.list_topics(timeout=5).topics, f"topic {topic}", 60)
        consumer.subscribe([topic])
        wait_until(arrived, f"a record of {topic}", 60)
    finally:
        consumer.close()
    return seen[0]


def avro(stack: Stack, frame: bytes) -> dict[str, object]:
    """Decode a record in Confluent's frame with the schema that the registry has for its id."""
    magic, schema_id = unpack(">bI", frame[:5])
    assert magic == 0
    answer = httpx.get(f"{stack.registry.url}/schemas/ids/{schema_id}").raise_for_status().json()
    record = fastavro.schemaless_reader(BytesIO(frame[5:]), json.loads(answer["schema"]), None)
    assert isinstance(record, dict)
    return record


@pytest.mark.stack
def test_a_sample_arrives_in_kafka_as_framed_avro_keyed_by_ship(stack: Stack) -> None:
    """An INSERT passes PostgreSQL, Debezium, the Avro converter, registry and Kafka, and reads back equal."""
    with (
        fresh_database(stack.postgres.server, "source", narrow=True) as dsn,
        connector(stack, dsn, "devstack_sample"),
    ):
        with psycopg.connect(dsn) as connection:
            connection.execute(SAMPLE)
        message = first_message(stack, "devstack_sample.tenant.tbl_data_timeseries")
    key, value = message.key(), message.value()
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    assert avro(stack, key) == {"ship_id": "SHIP1"}
    change = avro(stack, value)
    after = change["after"]
    assert isinstance(after, dict)
    assert change["op"] == "c"
    assert (after["data_channel_id"], after["double_v"]) == ("engine/speed", 1.5)
    assert after["created_time"] == 1_767_225_600_500_000


@pytest.mark.stack
def test_schema_ids_mean_the_same_after_the_registry_was_killed(tmp_path: Path) -> None:
    """Ids are written into every record: a registry that forgets them would make old records unreadable."""
    registry = Registry(tmp_path / "registry", free_port())
    registry.start()
    try:
        schema = json.dumps({"type": "record", "name": "kept", "fields": []})
        subject = f"{registry.url}/subjects/kept/versions"
        schema_id = httpx.post(subject, json={"schema": schema}).raise_for_status().json()["id"]
        registry.kill()
        registry.start()
        kept = httpx.get(f"{registry.url}/schemas/ids/{schema_id}").raise_for_status().json()
        assert json.loads(kept["schema"]) == json.loads(schema)
    finally:
        registry.wipe()


@pytest.mark.postgres
def test_committed_rows_survive_a_killed_postgres(chain: Stack) -> None:
    """`kill -9` of a cluster and a start on the same port bring back what was committed."""
    cluster = Postgres(chain.folder / "second", free_port())
    cluster.start()
    try:
        dsn = cluster.create_database("crash")
        with psycopg.connect(dsn) as connection:
            connection.execute(SAMPLE)
        cluster.kill()
        assert cluster.pid is None
        cluster.start()
        with psycopg.connect(dsn) as connection:
            counted = connection.execute("SELECT count(*) FROM tenant.tbl_data_timeseries").fetchone()
        assert counted == (1,)
    finally:
        cluster.wipe()


@pytest.mark.postgres
def test_a_dropped_database_takes_its_slot_and_prepared_transaction_along(postgres: Postgres) -> None:
    """What a failed test leaves behind can't block the drop of its database."""
    with fresh_database(postgres.server, "source", narrow=True) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')")
            connection.execute("BEGIN")
            connection.execute(SAMPLE)
            connection.execute("PREPARE TRANSACTION 'left behind'")
        name = str(conninfo_to_dict(dsn)["dbname"])
    assert not postgres.server.has_database(name)
    with psycopg.connect(postgres.dsn()) as connection:
        query = "SELECT FROM pg_replication_slots WHERE slot_name = 'left_behind'"
        assert connection.execute(query).fetchone() is None


@pytest.mark.postgres
def test_nothing_survives_down(chain: Stack) -> None:
    """`down` ends a detached server that another process started, and removes its folder."""
    other = Stack(chain.folder / "other", detached=True)
    other.keep_ports()
    other.postgres.start()
    server = psutil.Process(other.postgres.pid)
    done = devstack("down", DEVSTACK_HOME=str(other.folder))
    assert done.returncode == 0, done.stderr
    assert other.postgres.pid is None
    assert not server.is_running()
    assert not other.folder.exists()


@pytest.mark.postgres
def test_a_killed_test_run_leaves_neither_process_nor_data(chain: Stack) -> None:
    """The servers of a run end with it, even when nobody could tell them to."""
    folder = chain.folder / "orphaned"
    script = (
        "import sys, time; from pathlib import Path; from devstack import guard; "
        "from devstack.postgres import Postgres; from devstack.service import free_port; "
        "folder = Path(sys.argv[1]); server = Postgres(folder, free_port()); server.start(); "
        "guard.protect_folder(folder); print(server.pid, flush=True); time.sleep(600)"
    )
    run = subprocess.Popen(  # noqa: S603 - a fixed command
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    server = psutil.Process(int(run.stdout.readline()))
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the server ends")
    wait_until(lambda: not folder.exists(), "the folder is removed")


def test_missing_java_is_told_in_one_line(tmp_path: Path) -> None:
    """Without Java, `up` says what to install and exits with the code of a configuration error."""
    done = devstack("up", PATH=str(tmp_path), DEVSTACK_HOME=str(tmp_path / "chain"))
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "java 17" in done.stderr
    assert "install" in done.stderr
    assert not (tmp_path / "chain").exists()


def test_a_dsn_keeps_its_form_when_the_database_changes() -> None:
    """Servers given from outside may be named by a URL or by keywords."""
    assert (
        Server("postgresql://u:p@h:1/a?sslmode=require").dsn("b") == "postgresql://u:p@h:1/b?sslmode=require"
    )
    assert conninfo_to_dict(Server("host=h dbname=a").dsn("b")) == {"host": "h", "dbname": "b"}
