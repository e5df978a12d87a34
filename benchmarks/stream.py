"""The stream: from a filled topic to committed rows, all arms on the same topic."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import confluent_kafka as ck
import pyarrow as pa
from confluent_kafka.admin import AdminClient
from psycopg import sql
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmarks import jdbc_sink
from benchmarks import stream_peers as peers
from benchmarks.chain import NARROW, START, Connection, World, control_schema, succeed, wide_schema
from benchmarks.content import WideTable, digest, empty, wide_tables
from benchmarks.harness import Arm, Results, Run, alternate, race
from benchmarks.history import watching
from benchmarks.topic import Place, Template, capture, fill, placement
from devstack.fleet.bursts import minute_of
from devstack.fleet.history import history_minutes, history_samples
from devstack.product import Process

OURS: Final = "ours, 2 processes"
ALONE: Final = "ours, 1 process"
CONTROL: Final = "ours, 2 processes, again (A/A)"
FASTAVRO: Final = "plain fastavro + grouped row upserts"
JDBC: Final = "Debezium JDBC sink (narrow upsert, 2 tasks)"
CEILING: Final = "ceiling: consume() alone, 1 process"
PIPELINE: Final = "stream"
PARTITIONS: Final = 4
POLL_S: Final = 0.01
WAIT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Stream:
    """A pipeline with a full topic.

    Attributes:
        ends: offsets after the last event, per partition.
        slow_ends: where the slow arms stop.
    """

    world: World
    topic: str
    template: Template
    ends: dict[int, int]
    slow_ends: dict[int, int]
    tables: tuple[WideTable, ...]

    @property
    def events(self) -> int:
        """In the topic."""
        return sum(self.ends.values())

    def rewind(self) -> None:
        """Empty the tables, and set the ledger to the topic's begin."""
        self.rewind_only()
        with self.world.connect() as conn:
            empty(conn, wide_schema(PIPELINE))

    def rewind_only(self) -> None:
        """Set the ledger to the topic's begin: what follows is a replay."""
        query = sql.SQL("UPDATE {}.offset_ledger SET next_offset = 0, fence = fence + 1")
        with self.world.connect() as conn:
            conn.execute(query.format(sql.Identifier(control_schema(PIPELINE))))

    def digest(self) -> str:
        """What stands in the wide tables."""
        with self.world.connect() as conn:
            return digest(conn, wide_schema(PIPELINE))


@contextmanager
def open_stream(world: World, place: Place | None = None) -> Iterator[Stream]:
    """Hand a pipeline off on the real chain, capture an event of Debezium's, fill the topic with its like.

    Args:
        world: whose narrow table the topic shall tell of.
        place: the partition of a (ship's index, moment); by default ships are dealt out.
    """
    product = world.product(PIPELINE)
    succeed(product, "cdc-consumer", "schema", "apply")
    row = _take_out(world)
    succeed(product, "cdc-consumer", "init")
    try:
        _put_back(world, row)
        name = f"{PIPELINE}.{NARROW}"
        kafka = world.stack.kafka.bootstrap
        template = capture(kafka, world.stack.registry.url, name)
        places = placement(template, world.fleet.ships, PARTITIONS)
        chosen = place or (lambda ship, _: places[world.fleet.ships[ship]])
        began, count = time.monotonic(), 0
        slow, rest = _samples(world, row)
        count += fill(kafka, name, template, slow, world.fleet.ships, chosen)
        slow_ends = end_offsets(kafka, name)
        count += fill(kafka, name, template, rest, world.fleet.ships, chosen)
        seconds = time.monotonic() - began
        print(f"  {count:,} events written in {seconds:.0f} s", flush=True)
        with world.connect() as conn:
            tables = wide_tables(conn, control_schema(PIPELINE), wide_schema(PIPELINE))
        yield Stream(world, name, template, end_offsets(kafka, name), slow_ends, tuple(tables))
    finally:
        world.product(PIPELINE).run("cdc-consumer", "teardown", "--yes", quiet=True)
        AdminClient({"bootstrap.servers": world.stack.kafka.bootstrap}).delete_topics(
            [f"{PIPELINE}.{NARROW}"]
        )


def _take_out(world: World) -> dict[str, Any]:
    """Delete one row of the narrow table: it is inserted again once Debezium listens."""
    query = f"DELETE FROM {NARROW} WHERE id = (SELECT min(id) FROM {NARROW}) RETURNING *"
    with world.connect() as conn:
        cursor = conn.execute(query.encode())
        names = [column.name for column in cursor.description or ()]
        return dict(zip(names, cursor.fetchall()[0], strict=True))


def _put_back(world: World, row: dict[str, Any]) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, row))
    values = sql.SQL(", ").join(map(sql.Literal, row.values()))
    with world.connect() as conn:
        conn.execute(sql.SQL(f"INSERT INTO {NARROW} ({{}}) VALUES ({{}})").format(columns, values))


def _samples(
    world: World, taken: dict[str, Any]
) -> tuple[Iterator[pa.RecordBatch], Iterator[pa.RecordBatch]]:
    """The narrow table's rows in the order in which they came, without the one that is there: slow part, rest."""
    minutes, surplus = history_minutes(world.fleet, world.rows, minute_of(START))
    batches = history_samples(world.fleet, minutes, surplus)
    found = (_without(batch, taken) for batch in batches)
    slow = len(world.fleet.ships) * world.scale.slow_minutes * 2  # due and late rows
    return islice(found, slow), found


def _without(batch: pa.RecordBatch, taken: dict[str, Any]) -> pa.RecordBatch:
    keys = ("ship_id", "data_channel_id", "created_time")
    same = [
        tuple(row[key] for key in keys) == tuple(taken[key] for key in keys)
        for row in batch.select(list(keys)).to_pylist()
    ]
    return batch.filter(pa.array([not one for one in same])) if any(same) else batch


@retry(
    retry=retry_if_exception_type(ck.KafkaException),
    wait=wait_fixed(0.5),
    stop=stop_after_delay(30),
    reraise=True,
)
def end_offsets(bootstrap: str, name: str) -> dict[int, int]:
    """The offsets after the last record of each partition."""
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "ends"})
    try:
        places = [ck.TopicPartition(name, partition) for partition in range(PARTITIONS)]
        return {place.partition: consumer.get_watermark_offsets(place, timeout=10)[1] for place in places}
    finally:
        consumer.close()


# -- arms ---------------------------------------------------------------------------------------------------


def arms(stream: Stream, expected: str) -> list[Arm]:
    """All arms; `expected` is the digest of PostgreSQL's own pivot of the same rows."""
    world = stream.world
    kafka = world.stack.kafka.bootstrap

    def whole(name: str, run: Callable[[], Run]) -> Arm:
        return Arm(name, run, stream.rewind, stream.digest, expected)

    fastavro = (kafka, stream.topic, stream.slow_ends, stream.template.schema, world.dsn, stream.tables)
    return [
        whole(OURS, lambda: ours(stream, 2)),
        whole(ALONE, lambda: ours(stream, 1)),
        Arm(
            FASTAVRO,
            lambda: race(peers.plain_fastavro, [fastavro]),
            stream.rewind,
            lambda: _part_equal(stream),
            "equal",
        ),
        Arm(JDBC, lambda: jdbc(stream), stream.rewind, lambda: _sink_equal(stream), "equal"),
        Arm(CEILING, lambda: race(peers.consume_only, [(kafka, stream.topic, stream.ends)])),
        Arm("ceiling: consume() alone, 2 processes", lambda: race(peers.consume_only, _split(stream))),
        whole(CONTROL, lambda: ours(stream, 2)),
    ]


def measure(stream: Stream, expected: str) -> Results:
    """Run all arms."""
    print("stream", flush=True)
    return alternate(arms(stream, expected), stream.world.scale.repeats)


def _split(stream: Stream) -> list[tuple[Any, ...]]:
    kafka = stream.world.stack.kafka.bootstrap
    return [
        (kafka, stream.topic, {p: end for p, end in stream.ends.items() if p % 2 == half})
        for half in range(2)
    ]


def ours(stream: Stream, processes: int, **settings: str) -> Run:
    """`cdc-consumer run` as it is, from its first claim of a partition until the ledger stands at the end."""
    with stream.world.connect() as conn:
        _, fences = _ledger(conn)
        with consuming(stream, processes, **settings) as process, watching(process.child.pid) as peaks:
            began, ended = _follow(stream, conn, process, fences)
    counts = json.loads((stream.world.folder / "consumer.json").read_text())
    if counts["records"] < stream.events:
        raise RuntimeError(f"only {counts['records']} of {stream.events} events were read: what was timed?")
    seen = {
        "peak_mb": max(peaks),
        "busy_s": counts["busy_seconds"],
        "tuples": counts["rows_new"] + counts["rows_merged"],
    }
    return Run(stream.events, ended - began, seen)


@contextmanager
def consuming(stream: Stream, processes: int, **settings: str) -> Iterator[Process]:
    """The consumer, running; its counts are in `consumer.json` when it has ended."""
    product = stream.world.product(PIPELINE, **settings)
    report = str(stream.world.folder / "consumer.json")
    with ExitStack() as stack:
        process = product.start("cdc-consumer", "run", "--processes", str(processes), "--report", report)
        stack.callback(process.kill)
        yield process
        if process.terminate():
            raise RuntimeError(f"cdc-consumer run failed: {process.log.read_text()[-2000:]}")


def _follow(stream: Stream, conn: Connection, process: Process, fences: int) -> tuple[float, float]:
    """When the first partition was claimed (any claim raises the sum of fences), and when all stood at their end."""
    claimed: float | None = None
    deadline = time.monotonic() + WAIT_S
    while True:
        done, now_fences = _ledger(conn)
        now = time.monotonic()
        if claimed is None and now_fences > fences:
            claimed = now
        if claimed is not None and done >= stream.events:
            return claimed, now
        if not process.running or now > deadline:
            raise RuntimeError(f"the consumer did not finish: {process.log.read_text()[-2000:]}")
        time.sleep(POLL_S)


def _ledger(conn: Connection) -> tuple[int, int]:
    """Events applied, and the sum of all partitions' fences."""
    ledger = sql.Identifier(control_schema(PIPELINE), "offset_ledger")
    query = sql.SQL("SELECT sum(next_offset), sum(fence) FROM {}").format(ledger)
    ((done, fences),) = conn.execute(query).fetchall()
    return int(done), int(fences)


def jdbc(stream: Stream) -> Run:
    """The JDBC sink from the first row that it has committed until it has written as many as the slow part."""
    world = stream.world
    rows = sum(stream.slow_ends.values())
    url = (
        f"jdbc:postgresql://127.0.0.1:{world.stack.postgres.port}/{world.database}?reWriteBatchedInserts=true"
    )
    with world.connect() as conn:
        conn.execute(jdbc_sink.CREATE.encode())
        conn.execute("CHECKPOINT")
        sink = jdbc_sink.Sink(world.stack.connect.url, url, stream.topic)
        sink.start()
        try:
            first, count = None, 0
            deadline = time.monotonic() + WAIT_S
            while count < rows:
                time.sleep(0.1)
                ((count,),) = conn.execute(
                    f"SELECT count(*) FROM public.{jdbc_sink.TABLE}".encode()
                ).fetchall()
                now = time.monotonic()
                if first is None and count:
                    first = (now, count)
                if now > deadline:
                    raise RuntimeError("the JDBC sink did not write what it should")
                sink.check()
        finally:
            sink.remove()
    assert first is not None
    return Run(count - first[1], now - first[0])


def _sink_equal(stream: Stream) -> str:
    with stream.world.connect() as conn:
        ((wrong,),) = conn.execute(jdbc_sink.WRONG.encode()).fetchall()
    return "equal" if wrong == 0 else f"{wrong} rows differ"


def _part_equal(stream: Stream) -> str:
    """Every cell that is there is the source's, and there are as many as events with a value."""
    found = wrong = 0
    with stream.world.connect() as conn:
        for table in stream.tables:
            pairs = sql.SQL(", ").join(
                sql.SQL("({}, t.{})").format(sql.Literal(channel), sql.Identifier(column))
                for channel, column in zip(table.channels, table.columns, strict=True)
            )
            query = sql.SQL(
                "SELECT count(*), count(*) FILTER (WHERE v.value IS DISTINCT FROM"
                " coalesce(n.double_v::text, n.long_v::text, n.str_v, n.bool_v::text))"
                " FROM {table} t CROSS JOIN LATERAL (VALUES {pairs}) v(channel, value) LEFT JOIN {narrow} n"
                " ON (n.ship_id, n.data_channel_id, n.created_time) = ({ship}, v.channel, t.created_time)"
                " WHERE v.value IS NOT NULL"
            ).format(
                table=table.identifier, pairs=pairs, narrow=sql.SQL(NARROW), ship=sql.Literal(table.ship)
            )
            ((cells, differ),) = conn.execute(query).fetchall()
            found, wrong = found + cells, wrong + differ
    missing = sum(stream.slow_ends.values()) - found
    few = 0.005 * found  # rows without any value have no cell
    return "equal" if wrong == 0 and 0 <= missing <= few else f"{wrong} cells differ, {missing} are missing"
