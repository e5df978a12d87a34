"""The peer on Kafka Connect: Debezium's JDBC sink, which upserts the narrow rows as they come.

It cannot pivot; what it writes is the narrow table again, so its figure is that of the simplest way out of
Kafka, not of the same work. Its settings are the best that we found: upsert by the table's key, two tasks,
large polls, rewritten batches, a reduction buffer, nothing looked up or altered while running.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import httpx

from devstack.errors import DevstackError
from devstack.jars import cache
from devstack.postgres import PASSWORD

POM: Final = Path(__file__).parent / "pom.xml"
TABLE: Final = "jdbc_sink"
CREATE: Final = f"""
DROP TABLE IF EXISTS public.{TABLE};
CREATE TABLE public.{TABLE} (LIKE tenant.tbl_data_timeseries);
ALTER TABLE public.{TABLE} ALTER COLUMN id DROP NOT NULL,
    ADD PRIMARY KEY (ship_id, data_channel_id, created_time)
"""
WRONG: Final = f"""
SELECT count(*) FROM public.{TABLE} k LEFT JOIN tenant.tbl_data_timeseries n
    USING (ship_id, data_channel_id, created_time)
WHERE (n.bool_v, n.str_v, n.long_v, n.double_v, n.value_format)
    IS DISTINCT FROM (k.bool_v, k.str_v, k.long_v, k.double_v, k.value_format)
"""
WAIT_S: Final = 60.0


def plugin() -> Path:
    """The folder with the plugin; fetched by Maven (40 MB, once) into the cache outside of the tree."""
    folder = cache() / f"jdbc-sink-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        print("  fetching Debezium's JDBC sink", flush=True)
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={draft / 'debezium-jdbc'}"]
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(POM), *goal], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise DevstackError(f"Maven could not fetch Debezium's JDBC sink: {done.stdout[-400:]}")
        draft.rename(folder)
    return folder


class Sink:
    """The connector, for one topic; `start` and `remove`."""

    def __init__(self, connect_url: str, jdbc_url: str, topic: str) -> None:
        self._url = f"{connect_url}/connectors"
        self._name = f"jdbc-sink-{time.time_ns()}"  # a new name is a new consumer group
        self._config: dict[str, Any] = {
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": "2",
            "topics": topic,
            "connection.url": jdbc_url,
            "connection.username": "postgres",
            "connection.password": PASSWORD,
            "insert.mode": "upsert",
            "primary.key.mode": "record_value",
            "primary.key.fields": "ship_id,data_channel_id,created_time",
            "delete.enabled": "false",
            "schema.evolution": "none",
            "collection.name.format": f"public.{TABLE}",
            "batch.size": "5000",
            "use.reduction.buffer": "true",
            "consumer.override.max.poll.records": "5000",
            "consumer.override.fetch.max.bytes": "50000000",
            "consumer.override.max.partition.fetch.bytes": "8000000",
            "consumer.override.auto.offset.reset": "earliest",
            "errors.tolerance": "none",
        }

    def start(self) -> None:
        """Register the connector."""
        answer = httpx.put(f"{self._url}/{self._name}/config", json=self._config, timeout=30)
        if not answer.is_success:
            raise DevstackError(f"Connect refuses the JDBC sink: {answer.text}")

    def check(self) -> None:
        """Raise what a failed task says."""
        answer = httpx.get(f"{self._url}/{self._name}/status", timeout=10)
        if not answer.is_success:
            return
        for task in answer.json()["tasks"]:
            if task["state"] == "FAILED":
                raise DevstackError(f"the JDBC sink failed: {task['trace'][:1500]}")

    def remove(self) -> None:
        """Delete the connector and wait until its tasks are gone."""
        httpx.delete(f"{self._url}/{self._name}", timeout=30)
        deadline = time.monotonic() + WAIT_S
        while httpx.get(f"{self._url}/{self._name}", timeout=10).is_success:
            if time.monotonic() > deadline:
                raise DevstackError("the JDBC sink does not go away")
            time.sleep(0.2)
