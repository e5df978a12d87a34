"""The hand-off on the real chain: no gap, finished after a crash, and left alone when it is healthy."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdc_consumer import init as init_module
from cdc_consumer.registration import register
from cdc_consumer.teardown import teardown
from cdc_consumer.topic import Topics
from devstack.stack import Stack
from tests.pipeline_world import Pipeline, opened, pipeline_settings, wait_for
from widetable.barrier import barrier_passed
from widetable.hand_off import read_ledger

pytest_plugins = ["tests.pipeline_fixture"]
pytestmark = pytest.mark.stack


def end(pipeline: Pipeline) -> None:
    """Tear the pipeline down."""
    teardown(pipeline.settings, wait_s=10, with_connect=True, report=pipeline.changes.append)


def test_every_change_since_the_slot_is_in_the_stream(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed after the slot's creation and before the connector's start is not lost."""

    def late(*arguments: Any) -> None:
        pipeline.insert(1, 100)
        register(*arguments)

    monkeypatch.setattr(init_module, "register", late)
    pipeline.insert(1_000, 50)  # history: committed before the slot, and not the stream's business
    pipeline.init()
    pipeline.insert(2_000, 7)
    wait_for(lambda: pipeline.events() >= 107, "the changes did not arrive")
    assert pipeline.events() == 107


def test_the_hand_off_records_what_the_epoch_rests_on(pipeline: Pipeline) -> None:
    """Slot, barrier, topic and first offsets: all that others need, in one transaction."""
    hand_off = pipeline.init()
    assert pipeline.hand_off() == hand_off
    slot = pipeline.slot()
    assert slot is not None
    assert slot.confirmed_flush is not None
    assert slot.confirmed_flush >= hand_off.consistent_point
    assert barrier_passed(pipeline.source, hand_off.barrier_xid)
    topic = Topics(pipeline.settings.kafka).describe(hand_off.topic)
    assert topic is not None
    assert (topic.topic_id, topic.partitions, topic.cleanup_policy) == (hand_off.topic_id, 12, "delete")
    rows = read_ledger(pipeline.target, hand_off.pipeline, hand_off.topic_id)
    assert {row.partition: row.next_offset for row in rows} == dict.fromkeys(range(12), 0)


def test_source_and_target_may_be_one_database(stack: Stack, one_dsn: str) -> None:
    """Our own sessions hold no transaction: one with an id would block the creation of the slot."""
    with opened(pipeline_settings(stack, one_dsn, one_dsn)) as pipeline:
        pipeline.init(wait_s=10)
        pipeline.insert(1, 10)
        wait_for(lambda: pipeline.events() == 10, "the changes did not arrive")


def test_a_role_that_is_no_superuser_can_do_it(
    role: str, stack: Stack, source_dsn: str, target_dsn: str
) -> None:
    """REPLICATION, CREATE on the database and the narrow table are enough, for `init` and the connector."""
    with psycopg.connect(source_dsn) as admin:
        database = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, sql.Identifier(role)))
        for statement in (
            "ALTER SCHEMA tenant OWNER TO {}",
            "ALTER TABLE tenant.tbl_data_timeseries OWNER TO {}",
        ):
            admin.execute(sql.SQL(statement).format(sql.Identifier(role)))
    as_role = psycopg.conninfo.make_conninfo(source_dsn, user=role)
    with opened(pipeline_settings(stack, as_role, target_dsn)) as pipeline:
        pipeline.init()
        pipeline.insert(1, 10)
        wait_for(lambda: pipeline.events() == 10, "the changes did not arrive")
        end(pipeline)


def test_a_second_init_changes_nothing(streaming: Pipeline) -> None:
    """On a healthy hand-off it is a check."""
    before = streaming.hand_off()
    with streaming.connect() as connect:
        config = connect.config(streaming.name)
        streaming.init()
        assert streaming.changes == []
        assert connect.config(streaming.name) == config
    assert streaming.hand_off() == before


def test_two_inits_at_once_make_one_hand_off(pipeline: Pipeline) -> None:
    """Containers start together; the second one waits and finds all done."""
    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result() for future in [pool.submit(pipeline.init) for _ in range(2)]]
    assert first == second == pipeline.hand_off()
    assert first.epoch == 1


def test_an_init_killed_before_the_connector_is_finished_by_the_next(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hand-off row stands; only what comes after it is done."""
    with monkeypatch.context() as patch:
        patch.setattr(init_module, "register", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.init()
    before = pipeline.hand_off()
    assert before is not None
    pipeline.insert(1, 10)
    assert pipeline.init() == before
    wait_for(lambda: pipeline.events() == 10, "the changes did not arrive")


def test_an_init_killed_before_the_hand_off_row_starts_over(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that nobody has read from is made anew, and init says so."""
    with monkeypatch.context() as patch:
        patch.setattr(init_module, "take_barrier", _interrupt)
        patch.setattr(init_module, "drop_slot", lambda *_: False)  # kill -9 leaves no time to clean up
        with pytest.raises(KeyboardInterrupt):
            pipeline.init()
    assert pipeline.slot() is not None
    assert pipeline.hand_off() is None
    assert pipeline.init().epoch == 1
    assert any("without a hand-off" in change for change in pipeline.changes)


def test_after_teardown_a_new_epoch_begins_where_the_topic_ends(streaming: Pipeline) -> None:
    """Offsets already applied are kept; events of the new epoch lie beyond the old one's."""
    streaming.insert(1, 30)
    wait_for(lambda: streaming.events() == 30, "the changes did not arrive")
    first = streaming.hand_off()
    assert first is not None
    streaming.target.execute("UPDATE offset_ledger SET next_offset = 1")
    end(streaming)
    assert streaming.slot() is None
    with streaming.connect() as connect:
        assert connect.config(streaming.name) is None
    streaming.insert(100, 5)  # nobody listens
    second = streaming.init()
    assert (second.epoch, second.topic_id) == (2, first.topic_id)
    assert sum(second.boundary_offsets.values()) == 30
    assert second.placeholder == first.placeholder  # one decoder reads what both left in the topic
    assert second.verify_required == "epoch 2 began after the pipeline was torn down"
    rows = read_ledger(streaming.target, streaming.name, second.topic_id)
    ends = second.boundary_offsets
    assert {row.partition: row.next_offset for row in rows} == {
        number: min(1, ends[number]) for number in ends
    }
    streaming.insert(200, 3)
    wait_for(lambda: streaming.events() == 33, "the changes of the new epoch did not arrive")


def test_teardown_leaves_no_slot_and_can_be_repeated(streaming: Pipeline) -> None:
    """An abandoned slot fills the source's disk."""
    end(streaming)
    assert streaming.slot() is None
    found = streaming.source.execute("SELECT count(*) FROM pg_publication").fetchone()
    assert found == (0,)
    streaming.changes.clear()
    end(streaming)
    assert streaming.changes == []


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
