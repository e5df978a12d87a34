"""One scenario's world: a pipeline on the real chain under load, a fault that must fire, and the oracle at the end.

with world.load():
    consumer = world.consume()
    ... the fault ...; world.fire()
    world.recovered()          # the fault ends here: a row written now arrives; how long did it take?
world.prove(consumer)          # at rest: no difference, nothing dead, the ledger is a chain, counts add up
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg import sql

from devstack.fleet import FleetPlan, HistoryReport, LiveLoad, plan_fleet, write_history
from devstack.fleet.script import Mix
from devstack.product import Process
from devstack.stack import Stack
from tests.chain_pipeline import Pipeline
from tests.faults import chain_log, oracle
from tests.faults.gates import Gate, Place
from tests.faults.record import Record
from tests.waiting import wait_until

SHIPS: Final = 2
RECOVERY_S: Final = 90.0
"""A chain that has not recovered by then needed a hand."""
BEACON_EPOCH: Final = datetime(2001, 1, 1)
POSITION: Final = "SELECT coalesce(sum(next_offset), 0) FROM offset_ledger"
CHANGES: Final = (
    "SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname = 'tbl_data_timeseries'"
)
RESULTS: Final = ("applied", "superseded", "overflow", "dead")


class World:
    """See the module's docstring; made by the fixture `world`."""

    def __init__(self, pipeline: Pipeline, stack: Stack, record: Record) -> None:
        self.pipeline = pipeline
        self.stack = stack
        self.record = record
        self.random = random.Random(f"{record.row} {record.case} {record.seed}")
        self.fleet: FleetPlan = plan_fleet(SHIPS, seed=record.seed)
        self.now = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0)
        self._loads = 0
        self._beacons = 0
        self._reports = 0

    # -- what runs ---------------------------------------------------------------------------------------

    def hand_off(self, *, ships_known: bool = False) -> None:
        """Tables, hand-off, and from then on the log of the ledger; ships are newcomers unless told otherwise."""
        if ships_known:  # a ship is known by its samples, which are gone again before the stream begins
            self._write_beacons(BEACON_EPOCH)
        self.pipeline.succeed("cdc-consumer", "schema", "apply")
        if ships_known:
            self.source("DELETE FROM tenant.tbl_data_timeseries WHERE created_time = %s", BEACON_EPOCH)
        self.pipeline.succeed("cdc-consumer", "init")
        chain_log.install(self.pipeline.target)

    def history(self, rows: int) -> HistoryReport:
        """Samples from before, with statistics as a database in use has them."""
        history = write_history(self.pipeline.source, self.fleet, rows, self.now - timedelta(hours=1))
        self.source("ANALYZE tenant.tbl_data_timeseries")
        return history

    def next_load(
        self, rows_per_second: float = 2_000, history: HistoryReport | None = None, mix: Mix | None = None
    ) -> LiveLoad:
        """A live load on moments of its own, not started yet."""
        start = self.now + timedelta(hours=24 * self._loads)
        self._loads += 1
        return LiveLoad(
            self.pipeline.source,
            self.fleet,
            start=start,
            history=(history.first_moment, history.until) if history else None,
            rows_per_second=rows_per_second,
            mix=mix,
        )

    @contextmanager
    def load(
        self, rows_per_second: float = 2_000, history: HistoryReport | None = None, mix: Mix | None = None
    ) -> Iterator[LiveLoad]:
        """A live load while the context lasts; its events count once it has ended well."""
        live = self.next_load(rows_per_second, history, mix)
        with live:
            yield live
        self.record.events += live.report().events

    def consume(
        self, *options: str, processes: int = 1, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a consumer that reports its counts at the end, with more environment if given."""
        self._reports += 1
        report = self.pipeline.folder / f"report-{self._reports}.json"
        return self.pipeline.consume(
            "--report", str(report), *options, processes=processes, environment=environment
        )

    def gate(
        self, place: Place, who: str = "cdc-consumer%", wide_table: int | None = None
    ) -> AbstractContextManager[Gate]:
        """Hold sessions at a point of their transaction; in the wide tables, at one of them only if given."""
        tables = self.wide_tables() if place in ("in copy", "in write") else [("cdc", "offset_ledger")]
        assert tables, "no wide table yet: hand over with ships_known=True"
        if wide_table is not None:
            tables = [tables[wide_table]]
        return Gate(self.pipeline.target, place, tables, who)

    def wide_tables(self) -> list[tuple[str, str]]:
        """Schema and name of the wide tables, in the order in which they are written."""
        query = (
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema = 'tenant'"
            ' ORDER BY table_name COLLATE "C"'
        )
        with psycopg.connect(self.pipeline.target, autocommit=True) as conn:
            return [(schema, name) for schema, name in conn.execute(query)]

    # -- the two databases ---------------------------------------------------------------------------------

    def source(self, statement: str, *params: object) -> None:
        """Execute on the source."""
        with psycopg.connect(self.pipeline.source, autocommit=True) as conn:
            conn.execute(statement.encode(), params)

    def source_value(self, query: str, *params: object) -> int:
        """A single number from the source."""
        with psycopg.connect(self.pipeline.source, autocommit=True) as conn:
            (row,) = conn.execute(query.encode(), params).fetchall()
        return int(row[0])

    def flowing_at_source(self, changes: int = 1_000) -> None:
        """Wait until the load has committed so many more rows at the source."""
        goal = self.source_value(CHANGES) + changes
        wait_until(lambda: self.source_value(CHANGES) >= goal, "the source changes", RECOVERY_S)

    def target_text(self, query: str) -> str:
        """A single value from the target, with the control schema on the path."""
        with psycopg.connect(self.pipeline.target, autocommit=True, options="-c search_path=cdc") as conn:
            (row,) = conn.execute(query.encode()).fetchall()
        return str(row[0])

    def target(self, statement: str, *params: object) -> None:
        """Execute on the target."""
        with psycopg.connect(self.pipeline.target, autocommit=True) as conn:
            conn.execute(statement.encode(), params)

    def position(self) -> int:
        """How far the ledger is, over all partitions."""
        return self.pipeline.target_value(POSITION)

    def positions(self) -> dict[int, int]:
        """How far the ledger is, by partition."""
        with psycopg.connect(self.pipeline.target, autocommit=True) as conn:
            return dict(conn.execute("SELECT partition, next_offset FROM cdc.offset_ledger").fetchall())

    def flows(self, events: int = 2_000, timeout_s: float = RECOVERY_S) -> None:
        """Wait until the stream has moved on by so many events."""
        goal = self.position() + events
        wait_until(lambda: self.position() >= goal, f"{events:,} more events are applied", timeout_s)

    # -- the fault -----------------------------------------------------------------------------------------

    def fire(self, times: int = 1) -> None:
        """The fault was seen to happen."""
        self.record.fired += times

    def stop(self, process: Process) -> None:
        """SIGSTOP a program and its children: connections stay open and nothing answers."""
        for member in process.family():
            member.send_signal(signal.SIGSTOP)

    def resume(self, process: Process) -> None:
        """SIGCONT after `stop`."""
        for member in process.family():
            member.send_signal(signal.SIGCONT)

    def recovered(self, timeout_s: float = RECOVERY_S) -> None:
        """To be called where a fault ends: `arrives`, and how long that took is noted."""
        began = time.monotonic()
        self.arrives(timeout_s)
        self.record.recovery_s.append(time.monotonic() - began)

    def arrives(self, timeout_s: float = RECOVERY_S) -> None:
        """A row per ship written now arrives in the wide tables without a hand."""
        self._beacons += 1
        at = BEACON_EPOCH + timedelta(seconds=self._beacons)
        self._write_beacons(at)
        wait_until(lambda: self._arrived(at), "a row written after the fault arrives", timeout_s)
        self.record.events += len(self.fleet.ships)

    def _write_beacons(self, at: datetime) -> None:
        for ship in self.fleet.ships:
            self.source(
                "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time,"
                " server_created_time, value_format, double_v) VALUES (%s, %s, %s, now(), 'Decimal', 1.5)",
                *(ship, self.fleet.channels[0], at),
            )

    def _arrived(self, at: datetime) -> bool:
        where = (
            "SELECT 'tbl_data_timeseries_' || s.table_prefix || '_' || c.table_no FROM cdc.ship s, cdc.channel c"
            " WHERE s.ship_id = ANY (%s) AND c.channel_id = %s"
        )
        count = sql.SQL("SELECT count(*) FROM tenant.{} WHERE created_time = %s")
        try:
            with psycopg.connect(self.pipeline.target, autocommit=True, connect_timeout=5) as conn:
                tables = [
                    name for (name,) in conn.execute(where, (list(self.fleet.ships), self.fleet.channels[0]))
                ]
                found = [
                    conn.execute(count.format(sql.Identifier(table)), (at,)).fetchone() for table in tables
                ]
        except psycopg.OperationalError:
            return False
        return bool(found) and all(row is not None and row[0] == 1 for row in found)

    # -- the end -------------------------------------------------------------------------------------------

    def prove(self, *consumers: Process, chain: bool = True, dead: int = 0) -> None:
        """At rest: I1-I3 by the oracle, I4 by the ledger's log, I5 by the counts, I6 by the deadlines.

        The oracle lets dead cells be missing, so there must be no more of them than the scenario made.
        """
        self.arrives()
        self.at_rest()
        differences = oracle.compare(self.pipeline.source, self.pipeline.target)
        broken = chain_log.breaks(self.pipeline.target) if chain else 0
        self.record.differences = differences.total + broken
        for consumer in consumers:
            assert consumer.terminate() == 0, logged(consumer)
        self._counts_add_up()
        assert self.record.fired > 0, "the fault did not fire"
        assert differences.total == 0, differences
        assert broken == 0, "the ledger is no chain"
        assert self.pipeline.target_value("SELECT count(*) FROM dead_cell") == dead

    def at_rest(self, timeout_s: float = RECOVERY_S) -> None:
        """Everything in the topic is applied, and nothing waits in overflow."""
        wait_until(self._drained, "the ledger reaches the end of the topic", timeout_s)
        query = "SELECT count(*) FROM overflow_cell WHERE reason NOT IN ('does_not_fit', 'row_too_big')"
        wait_until(lambda: self.pipeline.target_value(query) == 0, "overflow is drained", timeout_s)
        wait_until(self._drained, "the ledger reaches the end of the topic", timeout_s)

    def _drained(self) -> bool:
        ends = self.end_offsets()
        with psycopg.connect(self.pipeline.target, autocommit=True) as conn:
            rows = conn.execute(
                "SELECT l.partition, l.next_offset FROM cdc.offset_ledger l JOIN cdc.hand_off h"
                " ON h.topic_id = l.topic_id AND h.ended_at IS NULL"
            )
            return all(next_offset >= ends.get(partition, 0) for partition, next_offset in rows)

    @property
    def topic(self) -> str:
        """The narrow table's topic."""
        with psycopg.connect(self.pipeline.target, autocommit=True) as conn:
            row = conn.execute("SELECT topic FROM cdc.hand_off ORDER BY epoch DESC LIMIT 1").fetchone()
        assert row is not None
        return str(row[0])

    def end_offsets(self) -> dict[int, int]:
        """The end of each partition, from the broker."""
        client = Consumer({"bootstrap.servers": self.stack.kafka.bootstrap, "group.id": "oracle"})
        try:
            topic = self.topic
            partitions = client.list_topics(topic, timeout=30).topics[topic].partitions
            return {
                number: client.get_watermark_offsets(TopicPartition(topic, number), timeout=30)[1]
                for number in partitions
            }
        finally:
            client.close()

    def make_topic(self, topic: str, partitions: int) -> None:
        """Make a topic, as an operator would by hand."""
        admin = AdminClient({"bootstrap.servers": self.stack.kafka.bootstrap})
        for done in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            done.result(30)

    def group_position(self) -> int:
        """What the group has committed to Kafka, over all partitions: for lag tools only, and behind at times."""
        name = self.pipeline.product.environment["CDC_PIPELINE__NAME"]
        client = Consumer({"bootstrap.servers": self.stack.kafka.bootstrap, "group.id": name})
        try:
            asked = [TopicPartition(self.topic, number) for number in self.end_offsets()]
            return sum(max(0, answer.offset) for answer in client.committed(asked, timeout=30))
        finally:
            client.close()

    def _counts_add_up(self) -> None:
        for path in self.pipeline.folder.glob("report-*.json"):
            counts = json.loads(path.read_text())
            assert counts["events"] == sum(counts[name] for name in RESULTS), counts
            # A record makes one sample or, where it changed its key, two.
            ends = counts["samples"] + counts["dead_records"] + sum(counts["filtered"].values())
            assert ends >= counts["records"], counts
        for process in self.pipeline.product.started:
            assert "event': 'bug'" not in process.log.read_text()
            assert '"event": "bug"' not in process.log.read_text()


def logged(process: Process) -> str:
    """The end of what a process wrote, for the message of a failed assertion."""
    return process.log.read_text()[-4000:]
