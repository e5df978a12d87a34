"""A new epoch on the real chain: begun after a break, finished after a crash, and never by mistake."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from cdc_consumer import reinit as reinit_module
from cdc_consumer.meter import Meter
from cdc_consumer.metrics import Snapshot
from cdc_consumer.reinit import diagnose, reinit
from cdc_consumer.target import Target
from cdc_consumer.teardown import teardown
from cdc_consumer.topic import Topics
from tests.pipeline_world import WAIT_S, Pipeline, wait_for
from widetable.errors import ConfigurationError, FenceLostError, OutdatedError
from widetable.hand_off import HandOff, read_ledger, write_hand_off
from widetable.ledger import OffsetLedger

pytest_plugins = ["tests.pipeline_fixture"]
pytestmark = pytest.mark.stack

STEPS = ("remove_connector", "drop_slot", "begin", "register")


def begin_anew(pipeline: Pipeline, *, force: bool = False) -> HandOff:
    """Run `reinit`; what it changed is in `changes`."""
    pipeline.changes.clear()
    return reinit(pipeline.settings, wait_s=WAIT_S, force=force, report=pipeline.changes.append)


def lose_slot(pipeline: Pipeline) -> None:
    """Drop the slot as somebody who wants the disk back."""
    with pipeline.connect() as connect:
        connect.stop(pipeline.name)
    wait_for(lambda: pipeline.reader_pid() is None, "the slot is still read")
    pipeline.source.execute("SELECT pg_drop_replication_slot(%s)", [pipeline.name])


def test_a_lost_slot_is_refused_by_init_and_passed_by_reinit(streaming: Pipeline) -> None:
    """Never by itself: what was missed must be known to whoever goes on."""
    streaming.insert(1, 30)
    wait_for(lambda: streaming.events() == 30, "the changes did not arrive")
    first = streaming.hand_off()
    assert first is not None
    lose_slot(streaming)
    streaming.insert(100, 5)  # in no stream
    with pytest.raises(ConfigurationError, match=r"is gone.*`cdc-consumer reinit`"):
        streaming.init()
    second = begin_anew(streaming)
    assert (second.epoch, second.topic_id, second.placeholder) == (2, first.topic_id, first.placeholder)
    assert sum(second.boundary_offsets.values()) == 30
    assert "is gone" in str(second.verify_required)
    assert {row.next_offset for row in read_ledger(streaming.target, streaming.name, second.topic_id)} == {0}
    streaming.insert(200, 3)
    wait_for(lambda: streaming.events() == 33, "the changes of the new epoch did not arrive")


def test_reinit_leaves_a_whole_stream_alone(streaming: Pipeline) -> None:
    """Without a break there is nothing to pass; unless it is forced."""
    streaming.insert(1, 5)
    wait_for(lambda: streaming.events() == 5, "the changes did not arrive")
    before = streaming.hand_off()
    assert diagnose(streaming.settings) is None
    assert begin_anew(streaming) == before == streaming.hand_off()
    assert streaming.changes == []
    assert begin_anew(streaming, force=True).epoch == 2


def forgotten_partitions(pipeline: Pipeline) -> str:
    """As after a `repartition` whose number nobody put into the settings; the topic is of the other number."""
    topic = pipeline.settings.topic.model_copy(update={"partitions": 24})
    pipeline.settings = pipeline.settings.model_copy(update={"topic": topic})
    return "has 12 partitions, CDC_TOPIC__PARTITIONS says 24"


def compacted_topic(pipeline: Pipeline) -> str:
    """A break that a new epoch does not mend."""
    name = pipeline.settings.topic_name
    compact = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[compact])
    admin = AdminClient(pipeline.settings.kafka.client(log_level=0))
    admin.incremental_alter_configs([resource])[resource].result()
    wait_for(
        lambda: "compact" in str(Topics(pipeline.settings.kafka).describe(name)), "the policy is as before"
    )
    return "cleanup.policy=compact"


def changed_identity(pipeline: Pipeline) -> str:
    """The narrow table would no longer tell which row was deleted."""
    pipeline.source.execute("ALTER TABLE tenant.tbl_data_timeseries REPLICA IDENTITY NOTHING")
    return "REPLICA IDENTITY DEFAULT"


@pytest.mark.parametrize("harm", [forgotten_partitions, compacted_topic, changed_identity])
def test_a_reinit_that_could_not_begin_an_epoch_clears_nothing_away(
    harm: Callable[[Pipeline], str], streaming: Pipeline
) -> None:
    """Epoch, slot and connector stay as they were: after the correction the command can be run, or left."""
    before, slot = streaming.hand_off(), streaming.slot()
    with pytest.raises(ConfigurationError, match=harm(streaming)):
        begin_anew(streaming, force=True)
    assert streaming.changes == []
    assert streaming.hand_off() == before
    kept = streaming.slot()
    assert kept is not None
    assert slot is not None
    assert (kept.name, kept.wal_status, kept.invalidation_reason) == (slot.name, slot.wal_status, None)
    with streaming.connect() as connect:
        state = connect.state(streaming.name)
    assert state is not None
    assert state.running


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_reinit_is_finished_by_the_next(
    step: str, streaming: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was killed."""
    streaming.source.execute(f"DROP PUBLICATION {streaming.name}".encode())

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reinit_module, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            begin_anew(streaming)
    second = begin_anew(streaming)
    assert second.epoch == 2
    assert "publication" in str(second.verify_required)
    streaming.insert(1, 5)
    wait_for(lambda: streaming.events() >= 5, "the changes did not arrive")
    assert diagnose(streaming.settings) is None


def test_an_advanced_slot_is_a_break(streaming: Pipeline) -> None:
    """Somebody made room on the source's disk: what was skipped is in no stream."""
    with streaming.connect() as connect:
        connect.stop(streaming.name)
    wait_for(lambda: streaming.reader_pid() is None, "the slot is still read")
    streaming.insert(1, 5)
    streaming.source.execute(
        "SELECT pg_replication_slot_advance(%s, pg_current_wal_insert_lsn())", [streaming.name]
    )
    assert "has moved on" in str(diagnose(streaming.settings))
    assert begin_anew(streaming).epoch == 2


def test_a_topic_made_anew_gets_a_ledger_of_its_own(streaming: Pipeline) -> None:
    """Its offsets have nothing to do with the old one's."""
    first = streaming.hand_off()
    assert first is not None
    with streaming.connect() as connect:
        connect.stop(streaming.name)
    admin = AdminClient(streaming.settings.kafka.client(log_level=0))
    admin.delete_topics([first.topic])[first.topic].result()
    second = begin_anew(streaming)
    assert second.topic_id != first.topic_id
    assert second.placeholder != first.placeholder
    assert len(read_ledger(streaming.target, streaming.name, second.topic_id)) == 12
    streaming.insert(1, 5)
    wait_for(lambda: streaming.events() == 5, "the changes did not arrive")


def test_a_running_consumer_writes_nothing_after_a_new_epoch_began(streaming: Pipeline) -> None:
    """It knows the old boundaries only: its fence is gone, and a new claim tells it to start again."""
    first = streaming.hand_off()
    assert first is not None
    connect = streaming.target
    ledger = OffsetLedger(connect, streaming.name, first.topic_id, "old", lambda: connect)
    claim = ledger.claim(0)
    begin_anew(streaming, force=True)
    with pytest.raises(FenceLostError):
        ledger.advance(claim, 1)
    with pytest.raises(OutdatedError, match="must start again"):
        _claim(streaming, first)


def _claim(pipeline: Pipeline, hand_off: HandOff) -> None:
    target = Target(pipeline.settings.target, hand_off, "old", Meter(Snapshot(), time.monotonic, time.time))
    target._conn = pipeline.target
    target._ledger = OffsetLedger(
        pipeline.target, pipeline.name, hand_off.topic_id, "old", lambda: pipeline.target
    )
    target.claim(0)


def test_positions_outside_of_what_the_topic_holds_move_to_its_ends(streaming: Pipeline) -> None:
    """What retention removed can't be read, and what the broker lost will be written again by others."""
    first = streaming.hand_off()
    assert first is not None
    for partition, offset in ((0, 3), (1, 7), (2, 50)):
        streaming.target.execute(
            "UPDATE offset_ledger SET next_offset = %s WHERE partition = %s", [offset, partition]
        )
    held = dict.fromkeys(range(12), range(5, 9))
    values = {name: getattr(first, name) for name in HandOff.__slots__} | {"epoch": 2}
    write_hand_off(streaming.target, HandOff(**values), held)
    rows = read_ledger(streaming.target, streaming.name, first.topic_id)
    assert [row.next_offset for row in rows[:3]] == [5, 7, 9]


def test_teardown_removes_the_slot_although_the_target_is_lost(streaming: Pipeline) -> None:
    """An abandoned slot fills the source's disk."""
    target = streaming.settings.target.model_copy(update={"control_schema": "lost"})
    streaming.settings = streaming.settings.model_copy(update={"target": target})
    teardown(
        streaming.settings, wait_s=10, with_connect=True, with_target=False, report=streaming.changes.append
    )
    assert streaming.slot() is None


def test_teardown_keeps_a_heartbeat_that_another_pipeline_publishes(streaming: Pipeline) -> None:
    """Without it the other one's slot would stand still while its ships are silent."""
    heartbeat = streaming.settings.source.heartbeat_table
    streaming.source.execute(f"CREATE PUBLICATION other FOR TABLE {heartbeat}".encode())
    teardown(streaming.settings, wait_s=10, with_connect=True, report=streaming.changes.append)
    assert streaming.source.execute("SELECT to_regclass(%s) IS NOT NULL", [heartbeat]).fetchone() == (True,)
