"""The commands that get past a broken stream, as an operator runs them, beside consumers that run."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from devstack.fleet import LiveLoad, plan_fleet
from tests.e2e.test_main_job import NOW, logged, wait_until
from widetable.control import use_control
from widetable.errors import ExitCode
from widetable.hand_off import add_partitions, require_hand_off

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

NARROW = "tenant.tbl_data_timeseries"
COLUMN = "/v1/vdr//x"
LEFT = "SELECT count(*) FROM overflow_cell"


def load_on(source: str) -> LiveLoad:
    """Ships that insert, update and delete."""
    return LiveLoad(source, plan_fleet(8, seed=5), start=NOW + timedelta(hours=1), rows_per_second=1_500)


def applied(pipeline: Any) -> int:
    """Offsets that the ledger has passed."""
    return int(pipeline.target_value("SELECT coalesce(sum(next_offset), 0) FROM offset_ledger"))


def execute(dsn: str, query: str) -> None:
    """One statement."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(query.encode())


def topic_of(pipeline: Any) -> str:
    """The change topic."""
    with psycopg.connect(pipeline.target, options="-c search_path=cdc") as conn:
        row = conn.execute("SELECT topic FROM hand_off ORDER BY epoch DESC LIMIT 1").fetchone()
    assert row is not None
    return str(row[0])


def required(pipeline: Any) -> str | None:
    """Why a verify is demanded, as `status` shows it."""
    shown: str | None = json.loads(pipeline.succeed("cdc-consumer", "status", "--json"))["hand_off"].get(
        "verify_required"
    )
    return shown


def test_partitions_are_added_under_load_and_no_cell_differs(pipeline: Any) -> None:
    """Ships move to other partitions; the consumers find them, and every order is kept."""
    pipeline.hand_off()
    consumer = pipeline.consume(processes=2)
    with load_on(pipeline.source) as load:
        wait_until(lambda: applied(pipeline) > 2_000, "the stream flows")
        pipeline.succeed("cdc-consumer", "repartition", "--partitions", "7")
        before = applied(pipeline)
        wait_until(lambda: applied(pipeline) > before + 5_000, "the stream flows again", 90.0)
        load.stop()
    wait_until(lambda: pipeline.target_value(LEFT) == 0, "overflow is drained")
    pipeline.verify()
    assert (
        pipeline.target_value("SELECT count(*) FROM offset_ledger WHERE partition >= 4 AND next_offset > 0")
        > 0
    )
    assert required(pipeline) is None
    assert consumer.running, logged(consumer)


def test_a_repartition_that_was_interrupted_is_finished_by_the_next(pipeline: Any) -> None:
    """Ledger rows come before the topic's partitions: the second run finds more of those than of these."""
    pipeline.hand_off()
    with psycopg.connect(pipeline.target, autocommit=True) as conn:
        use_control(conn, "cdc")
        (name,) = conn.execute("SELECT pipeline FROM hand_off").fetchone() or ("",)
        add_partitions(conn, require_hand_off(conn, name), [4, 5], None)
    assert "CDC_TOPIC__PARTITIONS=6" in pipeline.succeed("cdc-consumer", "repartition", "--partitions", "6")
    assert required(pipeline) is None


@pytest.mark.parametrize("used", [False, True], ids=["still empty", "written to"])
def test_partitions_added_behind_our_back_stop_the_consumer_and_are_taken_in(
    pipeline: Any, stack: Any, used: bool
) -> None:
    """Loudly, and with the name of the command; no consumer is left that could empty the old ones."""
    pipeline.hand_off()
    brokers = stack.environment()["CDC_KAFKA__BOOTSTRAP_SERVERS"]
    topic = topic_of(pipeline)
    admin = AdminClient({"bootstrap.servers": brokers})
    admin.create_partitions([NewPartitions(topic, 6)])[topic].result()
    ended = pipeline.product.run("cdc-consumer", "run", quiet=True)
    assert ended.returncode in {
        ExitCode.CONFIGURATION,
        ExitCode.STOPPED,
    }  # met by a worker, or by the watchdog
    assert "`cdc-consumer repartition" in ended.stderr
    if used:
        producer = Producer({"bootstrap.servers": brokers})
        producer.produce(topic, b"sent before the partition was known", partition=5)
        assert producer.flush(10) == 0
    taken = pipeline.succeed("cdc-consumer", "repartition", "--partitions", "6")
    assert "behind the pipeline's back" in str(required(pipeline))
    assert "CDC_TOPIC__PARTITIONS=6" in taken
    consumer = pipeline.consume()
    with load_on(pipeline.source) as load:
        wait_until(lambda: applied(pipeline) > 2_000, "the stream flows")
        load.stop()
    assert consumer.running, logged(consumer)


def test_a_truncate_is_passed_once_and_nothing_else_is(pipeline: Any) -> None:
    """Without being applied: the wide tables keep what they hold."""
    pipeline.hand_off()
    refused = pipeline.product.run("cdc-consumer", "resume", "--after-truncate", quiet=True)
    assert refused.returncode == ExitCode.CONFIGURATION
    assert "nothing to pass" in refused.stderr
    consumer = pipeline.consume()
    with load_on(pipeline.source) as load:
        wait_until(lambda: applied(pipeline) > 2_000, "the stream flows")
        load.stop()
    execute(pipeline.source, f"TRUNCATE {NARROW}")
    wait_until(lambda: not consumer.running, "the consumer stops", 60.0)
    assert "resume --after-truncate" in logged(consumer)
    passed = pipeline.succeed("cdc-consumer", "resume", "--after-truncate")
    assert "passed a TRUNCATE" in passed
    assert "was passed, not applied" in str(required(pipeline))
    again = pipeline.product.run("cdc-consumer", "resume", "--after-truncate", quiet=True)
    assert again.returncode == ExitCode.CONFIGURATION
    before = applied(pipeline)
    pipeline.consume()
    with load_on(pipeline.source) as load:
        wait_until(lambda: applied(pipeline) > before + 2_000, "the stream flows again")
        load.stop()


@pytest.mark.timeout(480)
def test_after_a_truncate_a_new_epoch_and_a_repair_make_the_target_the_source_again(pipeline: Any) -> None:
    """The documented way, which ends without a difference; a repair alone yields to what this epoch recorded."""
    fill = f"""INSERT INTO {NARROW} (ship_id, data_channel_id, created_time, double_v, value_format)
               SELECT 'SHIP', '{COLUMN}' || c, timestamp '2026-01-01' + interval '15 s' * s, {{value}}, 'Decimal'
               FROM generate_series(1, 5) c, generate_series(0, 3) s WHERE {{which}}"""
    execute(pipeline.source, fill.format(value="1", which="true"))
    pipeline.hand_off()
    consumer = pipeline.consume()
    execute(pipeline.source, f"UPDATE {NARROW} SET double_v = 2 WHERE data_channel_id < '{COLUMN}4'")
    execute(pipeline.source, f"DELETE FROM {NARROW} WHERE data_channel_id = '{COLUMN}3'")
    pipeline.succeed("backfill", "run")
    pipeline.verify()
    execute(pipeline.source, f"TRUNCATE {NARROW}")
    wait_until(lambda: not consumer.running, "the consumer stops", 60.0)
    # Other values for cells with and without versions, a deleted cell anew, and cells that stay away.
    execute(pipeline.source, fill.format(value="3", which="s = 0 OR c IN (1, 3, 4)"))
    pipeline.succeed("cdc-consumer", "resume", "--after-truncate")
    pipeline.consume()
    alone = pipeline.product.run("backfill", "verify", "--repair", "--settle-timeout", "100", quiet=True)
    assert alone.returncode == ExitCode.PARTIAL, alone.stderr
    pipeline.succeed("cdc-consumer", "reinit", "--yes", "--force")
    pipeline.succeed("backfill", "verify", "--repair", "--settle-timeout", "100")
    assert required(pipeline) is None
    pipeline.verify()


def test_events_keep_the_epoch_in_which_they_were_sent(pipeline: Any) -> None:
    """What epoch 1 left in the topic has epoch 1, and a consumer that runs meanwhile gets epoch 2 right."""
    one = f"""INSERT INTO {NARROW} (ship_id, data_channel_id, created_time, double_v, value_format)
              VALUES ('SHIP', '{COLUMN}', timestamp '2026-01-01' + interval '1 s' * %d, 1, 'Decimal')"""
    execute(pipeline.source, ";".join(one % second for second in (1, 2, 3)))
    pipeline.hand_off()
    change = (
        f"UPDATE {NARROW} SET double_v = 2 WHERE created_time = timestamp '2026-01-01' + interval '1 s' * %d"
    )
    execute(pipeline.source, change % 1)
    pipeline.succeed("cdc-consumer", "reinit", "--yes", "--force")
    execute(pipeline.source, change % 2)
    consumer = pipeline.consume()

    def changed(epoch: int) -> int:
        tables = (
            "SELECT count(*) FROM pg_class WHERE relname LIKE 'tbl_data_timeseries_ship_%' AND relkind = 'r'"
        )
        assert pipeline.target_value(tables) > 0
        union = " UNION ALL ".join(f"SELECT _x FROM tenant.tbl_data_timeseries_ship_{n}" for n in (1, 2, 3))
        return int(
            pipeline.target_value(
                f"SELECT count(*) FROM ({union}) AS rows, jsonb_each(_x) e WHERE (e.value ->> 0)::int = {epoch}"
            )
        )

    wait_until(lambda: changed(2) == 1, "the new epoch's change arrives")
    assert changed(1) == 1
    pipeline.succeed("cdc-consumer", "reinit", "--yes", "--force")
    execute(pipeline.source, change % 3)
    wait_until(lambda: changed(3) == 1, "the third epoch's change arrives", 60.0)
    assert consumer.running, logged(consumer)
