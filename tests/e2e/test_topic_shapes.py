"""Topics of other shapes, on the real chain and set up as docs/operations.md says: equal to the last cell."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from json import dumps
from threading import Event, Thread
from typing import Any

import psycopg
import pytest

from backfill.settings import Settings as BackfillSettings
from backfill.verify_command import run as verify
from cdc_consumer.app import build_consumer
from cdc_consumer.decoder import TruncateError
from cdc_consumer.metrics import Snapshot
from cdc_consumer.settings import Settings
from cdc_consumer.settle import Settler
from devstack.databases import Server
from devstack.pytest_plugin import fresh_database
from devstack.stack import Stack
from tests.doc_pages import PAGE_OF
from tests.pipeline_world import Pipeline, opened, pipeline_settings, wait_for
from tests.wide_plans import plan_of
from widetable.ddl import apply_schema
from widetable.environment import load
from widetable.errors import StoppedError, UnreachableError, WideTableError
from widetable.verify import Limits, Scope

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

(RECIPE,) = PAGE_OF["docs/operations.md"].blocks("properties")
FLATTENED = dict(line.split("=", 1) for line in RECIPE.splitlines())
"""The transform, as the page has it."""
SETTLE_S = 60.0


def json_of_connect(*, schemas: bool) -> dict[str, str]:
    """Converters of a connector that writes JSON."""
    parts = ("key.converter", "value.converter")
    converters = dict.fromkeys(parts, "org.apache.kafka.connect.json.JsonConverter")
    return converters | {f"{part}.schemas.enable": str(schemas).lower() for part in parts}


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape of the topic: more settings of the connector, (format, envelope) that fit it, and two that don't."""

    connector: dict[str, str]
    fits: tuple[str, str]
    wrong: tuple[str, str]
    advice: str


SHAPES = {
    "JSON with schemas": Shape(
        json_of_connect(schemas=True), ("json", "debezium"), ("avro", "debezium"), "set CDC_TOPIC__FORMAT=json"
    ),
    "JSON without schemas": Shape(
        json_of_connect(schemas=False), ("json", "debezium"), ("json", "flat"), "set CDC_TOPIC__ENVELOPE=debezium"
    ),
    "flattened, in Avro": Shape(
        FLATTENED, ("avro", "flat"), ("avro", "debezium"), "set CDC_TOPIC__ENVELOPE=flat"
    ),
    "flattened, in JSON": Shape(
        FLATTENED | json_of_connect(schemas=False), ("json", "flat"), ("avro", "flat"), "set CDC_TOPIC__FORMAT=json"
    ),
}  # fmt: skip

WORK = (
    """
    INSERT INTO tenant.tbl_data_timeseries
        (ship_id, data_channel_id, created_time, value_format, double_v, long_v, str_v, bool_v)
    SELECT 'SHIP' || 1 + n % 2, '/v1/me01//x', timestamp '2026-01-01' + n / 2 * interval '15 s', 'Decimal',
           (ARRAY['NaN', 'Infinity', '-Infinity', '-0', '1e16', '0.1', '5e-324', '100'])[1 + n % 8]::float8,
           NULL::bigint, NULL::text, NULL::boolean
    FROM generate_series(0, 63) n
    UNION ALL
    SELECT 'SHIP1', '/v1/me01//run', timestamp '0001-01-01' + n * interval '700 years', 'Integer',
           NULL, (ARRAY[-9223372036854775808, 9223372036854775807, 0, 9007199254740993])[1 + n % 4]::bigint,
           NULL, NULL
    FROM generate_series(0, 7) n
    UNION ALL
    SELECT 'SHIP2', 'UPPER', timestamp '2026-01-01' + n * interval '1 us', 'String', NULL, NULL,
           (ARRAY['', E'a\\tb\\nc\\\\', '"; -- ''', 'ü 船 🚢', 'NaN', 'null', '{"a": 1}', '\\N'])[1 + n % 8], NULL
    FROM generate_series(0, 7) n
    UNION ALL
    SELECT 'SHIP1', 'not/listed', timestamp '2026-01-01' + n * interval '1 s', 'Boolean',
           NULL, NULL, NULL, n % 2 = 0
    FROM generate_series(0, 5) n
    UNION ALL
    SELECT 'SHIP2', 'x"y;--', timestamp '2026-01-01', 'String', NULL, NULL, string_agg(md5(n::text), ''), NULL
    FROM generate_series(1, 200) n
    """,
    "UPDATE tenant.tbl_data_timeseries SET double_v = double_v / 3 WHERE ship_id = 'SHIP1' AND double_v > 0.01",
    # Its text is long, stays as it is, and is therefore not sent again.
    "UPDATE tenant.tbl_data_timeseries SET server_created_time = now() WHERE length(str_v) > 2000",
    "DELETE FROM tenant.tbl_data_timeseries WHERE double_v = '-Infinity' OR long_v = 0",
    """
    INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, long_v, value_format)
    SELECT 'SHIP1', '/v1/me01//run', timestamp '0001-01-01' + n * interval '700 years', 7, 'Integer'
    FROM generate_series(0, 7) n ON CONFLICT DO NOTHING
    """,
    # Changes of a key: the channel, the moment, the ship.
    "UPDATE tenant.tbl_data_timeseries SET data_channel_id = '/v1/ab01//y' WHERE str_v = 'null'",
    "UPDATE tenant.tbl_data_timeseries SET created_time = created_time + interval '1 d' WHERE double_v = 100",
    "UPDATE tenant.tbl_data_timeseries SET ship_id = 'SHIP2' WHERE data_channel_id = 'not/listed' AND bool_v",
)
"""Hard values inserted, updated, deleted, inserted again and moved; each statement is a transaction."""
LAST = """
INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, long_v, value_format)
VALUES ('SHIP1', '/v1/me01//run', '2026-02-02', 1, 'Integer')
"""


@dataclass
class Running:
    """A consumer in a thread, beside it the chore that says how far the target is settled."""

    settings: Settings
    counts: Snapshot = field(default_factory=Snapshot)
    error: WideTableError | None = None
    stop: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        consumer = build_consumer(self.settings, "test", self.counts)
        try:
            with Settler.connect(self.settings) as settler:
                while not self.stop.is_set():
                    consumer.step(0.1)
                    with suppress(UnreachableError):
                        settler.step()
        except WideTableError as error:
            self.error = error
        finally:
            consumer.close()

    def close(self) -> None:
        """Leave the group."""
        self.stop.set()
        self._thread.join()


@dataclass(slots=True)
class Stream:
    """A pipeline whose topic has this shape."""

    name: str
    pipeline: Pipeline
    running: Running | None = None

    @property
    def shape(self) -> Shape:
        """What its topic holds."""
        return SHAPES[self.name]

    def refuse(self) -> str:
        """What a consumer says whose settings do not fit; it stops at the first record, and writes nothing."""
        running = Running(reading(self.pipeline.settings, self.shape.wrong, dead_in_a_row=1))
        try:
            wait_for(lambda: running.error is not None, f"{self.name}: wrong settings stop the consumer")
        finally:
            running.close()
        assert isinstance(running.error, StoppedError)
        return str(running.error)

    def run(self) -> Running:
        """Start a consumer whose settings fit."""
        self.running = Running(self.pipeline.settings)
        return self.running

    def verify(self) -> tuple[bool, int]:
        """Whether both sides agree, and how many cells were compared."""
        settings = self.pipeline.settings
        dsns = {
            "CDC_SOURCE__DSN": settings.source.dsn.get_secret_value(),
            "CDC_TARGET__DSN": settings.target.dsn.get_secret_value(),
        }
        of = load(BackfillSettings, {"CDC_PIPELINE__NAME": self.pipeline.name, **dsns})
        report = verify(of, Scope(), Limits(), SETTLE_S)
        return report.agrees, report.cells_compared

    def count(self, query: str) -> int:
        """A number from the target."""
        row = self.pipeline.target.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0


def reading(settings: Settings, shape: tuple[str, str], **consumer: Any) -> Settings:
    """The settings, for a topic of another format and envelope."""
    topic = settings.topic.model_copy(update=dict(zip(("format", "envelope"), shape, strict=True)))
    more = settings.consumer.model_copy(update=consumer)
    return settings.model_copy(update={"topic": topic, "consumer": more})


@pytest.fixture
def streams(stack: Stack, source_dsn: str, target_server: Server) -> Iterator[list[Stream]]:
    """One source; of each shape a connector, a topic and a target, streaming."""
    with ExitStack() as opening, ThreadPoolExecutor(len(SHAPES)) as pool:
        found = []
        for name, shape in SHAPES.items():
            target = opening.enter_context(fresh_database(target_server, "target", narrow=False))
            more = {"CDC_CONNECT__EXTRA": dumps(shape.connector), "CDC_TOPIC__PARTITIONS": "2"}
            if shape.fits[0] == "json":
                more["CDC_REGISTRY__URL"] = "http://127.0.0.1:1"  # nobody asks it
            settings = reading(pipeline_settings(stack, source_dsn, target, **more), shape.fits)
            stream = Stream(name, opening.enter_context(opened(settings)))
            apply_schema(stream.pipeline.target, settings.target, plan_of("SHIP1", "SHIP2"))
            found.append(stream)
        found[0].pipeline.init()  # makes the heartbeat's table, which all share
        list(pool.map(lambda stream: stream.pipeline.init(), found[1:]))
        yield found
        for stream in found:
            if stream.running:
                stream.running.close()


def test_every_shape_of_the_topic_ends_equal_and_wrong_settings_are_named(
    streams: list[Stream], source_dsn: str
) -> None:
    """JSON with schemas and without, flattened rows in Avro and JSON; a TRUNCATE stops what can see it."""
    with ThreadPoolExecutor(len(streams)) as pool, psycopg.connect(source_dsn, autocommit=True) as source:
        source.execute(WORK[0].encode())
        for stream, said in zip(streams, pool.map(Stream.refuse, streams), strict=True):
            assert stream.shape.advice in said, stream.name
            assert stream.count("SELECT count(*) FROM dead_cell") == 0, "nothing was written"

        runs = [stream.run() for stream in streams]
        for work in WORK[1:]:
            assert source.execute(work.encode()).rowcount > 0, work
        (cells,) = source.execute("SELECT count(*) FROM tenant.tbl_data_timeseries").fetchall()[0]
        assert dict(zip(SHAPES, pool.map(Stream.verify, streams), strict=True)) == dict.fromkeys(
            SHAPES, (True, cells)
        )
        assert [run.error for run in runs] == [None] * len(runs)
        assert [stream.count("SELECT count(*) FROM dead_cell") for stream in streams] == [0] * len(streams)
        assert all(run.counts.ops == runs[0].counts.ops for run in runs), [run.counts.ops for run in runs]
        assert all(runs[0].counts.ops[op] > 0 for op in ("create", "update", "delete")), runs[0].counts.ops

        source.execute("TRUNCATE tenant.tbl_data_timeseries")
        source.execute(LAST)
        for stream, run in zip(streams, runs, strict=True):
            sees_it = stream.shape.fits[1] == "debezium"
            wait_for(lambda r=run, s=stream: r.error is not None or passed(s), f"{stream.name}: the end")  # type: ignore[misc]
            assert isinstance(run.error, TruncateError) == sees_it, (stream.name, run.error)


def passed(stream: Stream) -> bool:
    """Whether the sample after the truncate has arrived."""
    query = "SELECT count(*) FROM tenant.tbl_data_timeseries_ship1_2 WHERE created_time = '2026-02-02'"
    return stream.count(query) == 1
