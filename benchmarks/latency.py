"""How late rows are, and how often they are written: bursts, steady load, both orders of a collector."""

from __future__ import annotations

import statistics
import time
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final, LiteralString

import confluent_kafka as ck
import fastavro
import httpx
import numpy as np
import numpy.typing as npt
import psycopg
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql

from benchmarks import topic
from benchmarks.chain import MINUTE_ROWS, NARROW, START, World, control_schema, succeed, wide_schema
from benchmarks.content import tuples_written, wide_rows
from benchmarks.stream import PARTITIONS, PIPELINE, Stream, consuming, end_offsets
from cdc_consumer.exposition import BUCKET_STEP
from cdc_consumer.metrics import BUCKETS_MS
from devstack.databases import Server
from devstack.fleet import LiveLoad, write_history
from devstack.fleet.bursts import burst_of, minute_of
from devstack.fleet.plan import Order
from devstack.fleet.script import CALM
from devstack.product import Product
from devstack.service import free_port

LIVE: Final = "live"
STEADY_ROWS_PER_S: Final = 561.0
CAPTURE_ROWS_PER_S: Final = 15_000
"""How fast Debezium delivers a burst, as measured; the pace at which both orders are played."""
ORDER_MINUTES: Final = 2
WARM_S: Final = 15.0
"""Two bursts of the steady load, in which a new process reads schemas and meets its tables for the first time."""
GRACE_S: Final = 120.0
PUBLISHED_S: Final = 1.0
"""A process tells its counts to the one that serves them twice a second."""
STATISTICS_S: Final = 1.0
"""A session's counts are in the statistics by then, once it has ended."""
FAR_MINUTES: Final = 10_000
"""Where bursts lie, in minutes behind the history, so that their rows are new."""

Cumulative = npt.NDArray[np.float64]
Events = list[tuple[str, bytes]]
"""(ship, framed value) each."""


def bursts(stream: Stream) -> dict[str, Any]:
    """From the last record in Kafka to committed rows: a minute of the whole fleet at once, again and again."""
    world, found, produced = stream.world, [], []
    with consuming(stream, 2):
        _wait_committed(stream)
        for number in range(world.scale.bursts + 2):  # two to warm up
            events = _minute_events(stream, FAR_MINUTES + number, "moment")
            began = time.monotonic()
            _send(stream, events)
            sent = time.monotonic()
            found.append((_wait_committed(stream) - sent) * 1000)
            produced.append((sent - began) * 1000)
            time.sleep(0.3)
    after = found[2:]
    return {
        "cells": len(events),
        "median_ms": statistics.median(after),
        "worst_ms": max(after),
        "send_ms": statistics.median(produced),
        "hold_ms": 200,
    }


def amplification(stream: Stream, order: Order) -> dict[str, Any]:
    """Tuples written per row present, while bursts arrive as fast as Debezium captures them."""
    schema = wide_schema(PIPELINE)
    first = FAR_MINUTES * (2 if order == "moment" else 3)
    minutes = [_minute_events(stream, first + i, order) for i in range(ORDER_MINUTES)]
    with stream.world.connect() as conn:
        # Before the consumer starts: a session's counts are sure to be there only once it has ended.
        before, rows_before = tuples_written(conn, schema), wide_rows(conn, schema)
        with consuming(stream, 2):
            _wait_committed(stream)
            for events in minutes:
                _send(stream, events, CAPTURE_ROWS_PER_S)
            _wait_committed(stream)
        time.sleep(STATISTICS_S)
        after, rows = tuples_written(conn, schema), wide_rows(conn, schema) - rows_before
    inserted, updated = after[0] - before[0], after[1] - before[1]
    return {
        "rows": rows,
        "inserted": inserted,
        "updated": updated,
        "written_per_row": (inserted + updated) / rows,
    }


def _minute_events(stream: Stream, minute: int, order: Order) -> Events:
    fleet = replace(stream.world.fleet, order=order)
    found: Events = []
    for ship, name in enumerate(fleet.ships):
        samples = burst_of(fleet, ship, minute_of(START) + minute).samples
        found += [(name, value) for value in topic.events(stream.template, samples, 10**9 + minute * 10**6)]
    return found


def _send(stream: Stream, events: Events, rows_per_s: float = float("inf")) -> None:
    """Write events; returns when Kafka has the last one."""
    producer = ck.Producer(
        {"bootstrap.servers": stream.world.stack.kafka.bootstrap, **topic.PRODUCER, "linger.ms": 5}
    )
    places = topic.placement(stream.template, stream.world.fleet.ships, PARTITIONS)
    keys = {ship: stream.template.key_of(ship) for ship in places}
    began = time.monotonic()
    for number, (ship, value) in enumerate(events):
        if number % 500 == 0:
            time.sleep(max(0.0, began + number / rows_per_s - time.monotonic()))
            producer.poll(0)
        topic.produce(producer, stream.topic, value, keys[ship], places[ship])
    producer.flush(GRACE_S)


def _wait_committed(stream: Stream, timeout_s: float = GRACE_S) -> float:
    """Wait until the ledger stands at the topic's end; returns when that was seen."""
    ends = sum(end_offsets(stream.world.stack.kafka.bootstrap, stream.topic).values())
    return _wait_ledger(stream.world.dsn, PIPELINE, "sum(next_offset)", ends, timeout_s)


def _wait_ledger(
    dsn: str, pipeline: str, figure: LiteralString, wanted: int, timeout_s: float = GRACE_S
) -> float:
    """Wait until a figure of all ledger rows is large enough; returns when that was seen."""
    ledger = sql.Identifier(control_schema(pipeline), "offset_ledger")
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(figure), ledger)
    deadline = time.monotonic() + timeout_s
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            ((found,),) = conn.execute(query).fetchall()
            now = time.monotonic()
            if found is not None and found >= wanted:
                return now
            if now > deadline:
                raise TimeoutError(f"the ledger's {figure} is {found}, not {wanted}")
            time.sleep(0.002)


# -- steady load, through Debezium --------------------------------------------------------------------------


def steady(world: World) -> dict[str, Any]:
    """Latencies at the fleet's real rate on the whole chain: collector, Debezium, Kafka, consumer."""
    server: Server = world.stack.postgres.server
    server.drop_database("bench_live")
    dsn = server.create_database("bench_live")
    port, name = free_port(), f"{LIVE}.{NARROW}"
    settings = world.settings(
        LIVE, CDC_SOURCE__DSN=dsn, CDC_TARGET__DSN=dsn, CDC_CONSUMER__HTTP_PORT=str(port)
    )
    product = Product(settings, world.folder)
    try:
        write_history(dsn, world.fleet, MINUTE_ROWS, START)  # tables are made for ships that are there
        succeed(product, "cdc-consumer", "schema", "apply")
        succeed(product, "cdc-consumer", "init")
        process = product.start("cdc-consumer", "run")
        try:
            _wait_ledger(dsn, LIVE, "bool_and(owner IS NOT NULL)::int", 1)
            load = LiveLoad(dsn, world.fleet, start=START, rows_per_second=STEADY_ROWS_PER_S, mix=CALM)
            with load:
                time.sleep(WARM_S)
                before = _latencies(port)
                time.sleep(world.scale.steady_s)
                events = load.stop().events
            _wait_ledger(dsn, LIVE, "sum(next_offset)", events)
            time.sleep(PUBLISHED_S)
            after = _latencies(port)
        finally:
            process.terminate()
        capture = _capture_ms(world, name)
    finally:
        product.run("cdc-consumer", "teardown", "--yes", quiet=True)
        server.drop_database("bench_live")
        AdminClient({"bootstrap.servers": world.stack.kafka.bootstrap}).delete_topics([name])
    measured = {name: after[name] - before[name] for name in after}
    return {
        "rows": int(measured["apply"][-1]),
        "apply_p50_ms": _quantile_ms(measured["apply"], 0.5),
        "apply_p99_ms": _quantile_ms(measured["apply"], 0.99),
        "total_p50_ms": _quantile_ms(measured["total"], 0.5),
        "total_p99_ms": _quantile_ms(measured["total"], 0.99),
        "capture_p50_ms": float(np.quantile(capture, 0.5)),
        "capture_p99_ms": float(np.quantile(capture, 0.99)),
    }


def _latencies(port: int) -> dict[str, Cumulative]:
    """Events per bucket of the consumer's histograms so far, each with those of all lower buckets."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        name: np.array([s.value for s in families[f"cdc_{name}_seconds"].samples if "le" in s.labels])
        for name in ("apply", "total")
    }


def _quantile_ms(cumulative: Cumulative, share: float) -> float:
    """The upper bound of the bucket that holds the quantile."""
    bucket = int(np.searchsorted(cumulative, share * cumulative[-1]))
    return float(BUCKETS_MS[::BUCKET_STEP][bucket])


def _capture_ms(world: World, name: str) -> list[int]:
    """Per event of a topic, from the commit at the source to the record in Kafka: Debezium's own latency."""
    kafka = world.stack.kafka.bootstrap
    ends = end_offsets(kafka, name)
    template = topic.capture(kafka, world.stack.registry.url, name)
    parsed = fastavro.parse_schema(deepcopy(template.schema))
    consumer = ck.Consumer(
        {"bootstrap.servers": kafka, "group.id": "capture-times", "enable.auto.commit": False}
    )
    consumer.assign([ck.TopicPartition(name, partition, 0) for partition in ends])
    found: list[int] = []
    while len(found) < sum(ends.values()):
        for message in consumer.consume(min(5_000, sum(ends.values()) - len(found)), 5):
            event = topic.read_event(message.value() or b"", parsed)
            found.append(message.timestamp()[1] - event["source"]["ts_ms"])
    consumer.close()
    return found
